"""The length of training, in epochs and minimum steps, and refitting the head: test scores of each setting.

    python recipes/benchmarks/steps.py DATA_FOLDER [--datasets trec ...] [--per-class 8 | --rows 1000] [--passes 2 4]
        [--steps 0] [--strategies finetune "finetune strategy.head_last=true"] [--seeds 2] [--results FILE]

DATA_FOLDER has one folder per data set with train, validation and test files. Training rows, per class or in all, are
drawn by the seed, with as many validation rows in all for the choice of weights and calibration. Training takes
--passes epochs, or at least --steps steps of 16 rows; without --passes it has the default length of a run. All test
rows are measured; "score" is the metric by which a run chooses its weights. The first table has the means over the
seeds, and the score of each seed; the second has the difference of each further setting to the first one in score,
accuracy and log-loss, with a 95 % interval by Student's t over data sets and seeds, and the ratio of processor times.

Each measurement is appended to --results at once and not repeated, so an interrupted benchmark can be continued.
"""

from __future__ import annotations

import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.command import MINIMAL_WORDS, data_parser
from recipes.benchmarks.timing.intervals import paired_difference
from recipes.benchmarks.timing.results import ResultsFile
from recipes.benchmarks.timing.tables import markdown_header, markdown_row

SHARED_WORDS = ["data=files", *MINIMAL_WORDS, "evaluation.resamples=2"]
DATASETS = ["trec", "cr", "tweet_emotion", "sst5", "scicite", "banking77"]
# data set -> settings that its columns do not imply
DATA_WORDS = {"sick": ["data.columns.label=score", "data.problem=regression"]}
FIGURES = ("score", "accuracy", "log_loss")


def main(argv: list[str] | None = None) -> None:
    """Measure what the results file lacks, and print the tables as Markdown."""
    parser = data_parser(__doc__)
    parser.add_argument("--datasets", nargs="+", default=DATASETS)
    parser.add_argument("--strategies", nargs="+", default=["finetune"])
    drawn = parser.add_mutually_exclusive_group()
    drawn.add_argument("--per-class", type=int, help="training rows per label (8)")
    drawn.add_argument("--rows", type=int, help="training rows in all")
    parser.add_argument("--passes", type=float, nargs="+", default=[None])
    parser.add_argument("--steps", type=int, nargs="+", default=[0], help="minimum steps")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--results", type=Path, default=Path("steps.jsonl"))
    arguments = parser.parse_args(argv)
    limit = {"train_limit": arguments.rows} if arguments.rows else {"per_class": arguments.per_class or 8}
    variants = list(product(arguments.strategies, arguments.passes, arguments.steps))
    jobs = [
        {"dataset": dataset, **limit, "strategy": strategy, "passes": passes, "steps": steps, "seed": seed}
        for seed in range(arguments.seeds)
        for dataset in arguments.datasets
        for strategy, passes, steps in variants
    ]
    results = ResultsFile(arguments.results)
    for job in results.missing(jobs):
        results.add(job | measure(arguments.data / job["dataset"], limit, job))
    print(machine.heading() + "\n")
    show(results.select(jobs))


def measure(source: Path, limit: dict[str, int], job: dict[str, Any]) -> dict[str, float]:
    """Adapt once; return the test figures and processor seconds."""
    from nlp_transfer.config import compose
    from nlp_transfer.data.corpus import load_corpus
    from nlp_transfer.running.run import adapt

    words = [f"data.path={source}", *(f"data.{key}={value}" for key, value in limit.items()), f"seed={job['seed']}"]
    words += [*SHARED_WORDS, *(f"strategy={job['strategy']}").split(), f"training.min_steps={job['steps']}"]
    words += [] if job["passes"] is None else [f"training.epochs={job['passes']}"]
    words += DATA_WORDS.get(source.name, [])
    rows = len(load_corpus(compose(None, words).data, seed=job["seed"]).splits["train"])
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run = adapt(compose(None, [*words, f"data.validation_limit={rows}", f"output={folder}"]))
    figures = run.metrics | {"score": run.metrics[run.report.metric]}
    seconds = round(time.process_time() - started, 1)
    return {name: round(figures[name], 4) for name in FIGURES if name in figures} | {"seconds": seconds}


def show(lines: list[dict[str, Any]]) -> None:
    """Print a row per data set and variant, and the gain of each variant over the first."""
    named, measured = ("strategy", "epochs", "minimum steps"), ("score", "accuracy", "log-loss")
    print(markdown_header(["data set", *named, *measured, "score of each seed"]))
    variants = list(dict.fromkeys(map(_variant, lines)))
    for dataset, variant in product(dict.fromkeys(line["dataset"] for line in lines), variants):
        own = [line for line in lines if line["dataset"] == dataset and _variant(line) == variant]
        means = (f"{np.mean([line.get(name, np.nan) for line in own]):.3f}" for name in FIGURES)
        print(markdown_row([dataset, *_cells(variant), *means, ", ".join(f"{line['score']:.3f}" for line in own)]))
    if not variants[1:]:
        return
    print("\n" + markdown_header([*named, *measured, "times"]))
    first = [line for line in lines if _variant(line) == variants[0]]
    for variant in variants[1:]:
        pairs = list(zip([line for line in lines if _variant(line) == variant], first, strict=True))
        gains = [[own[name] - other[name] for own, other in pairs if name in own] for name in FIGURES]
        cells = (paired_difference(np.array(gain)) if gain else "" for gain in gains)
        times = np.median([own["seconds"] / other["seconds"] for own, other in pairs])
        print(markdown_row([*_cells(variant), *cells, f"{times:.2f}"]))


def _variant(line: dict[str, Any]) -> tuple[str, float | None, int]:
    return line["strategy"], line["passes"], line["steps"]


def _cells(variant: tuple[str, float | None, int]) -> list[str]:
    strategy, passes, steps = variant
    return [strategy, "–" if passes is None else f"{passes:g}", str(steps or "–")]


if __name__ == "__main__":
    main()
