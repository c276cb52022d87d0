"""The effect of bfloat16 on accuracy: the same runs in float32 and in bfloat16, compared in pairs.

    python recipes/benchmarks/precision.py DATA_FOLDER [--datasets trec sst2 ...] [--strategies finetune probe]
        [--seeds 0 1 2] [--rows 1000] [--results precision.jsonl]

DATA_FOLDER has one folder per data set with train, validation and test files. The two runs of a pair have the same
seed, training rows, order of data, settings and test rows (at most 1,000) and differ in `training.precision` only. The
output is one Markdown table. Differences are bfloat16 minus float32, with the 95 % interval of their mean by Student's
t over the seeds of a data set, and over all pairs.

Each measurement is appended to --results at once and not repeated for the same code and versions, so an interrupted
benchmark can be continued.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.strategies import draw_splits
from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.command import MINIMAL, data_parser
from recipes.benchmarks.timing.intervals import paired_difference
from recipes.benchmarks.timing.results import Line, ResultsFile
from recipes.benchmarks.timing.tables import markdown_header, markdown_row

DATASETS = ("trec", "sst2", "tweet_emotion", "banking77")
STRATEGIES = ("finetune", "probe")
PRECISIONS = ("fp32", "bf16")
FIGURES = ("accuracy", "log_loss")
# Settings of all runs; without a cache no run uses what another one computed.
SHARED_SETTINGS: dict[str, Any] = {
    "data": "files",
    "data.unseen": "ignore",
    "data.empty": "drop",
    "training.epochs": 2,
    "cache.gib": 0,
    "evaluation.resamples": 2,
    **MINIMAL,
}


def main(argv: list[str] | None = None) -> None:
    """Measure what the results file lacks, and print the table as Markdown."""
    parser = data_parser(__doc__)
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS), choices=list(DATASETS))
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=list(STRATEGIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=1000, help="training rows, drawn by the seed")
    parser.add_argument("--results", type=Path, default=Path("precision.jsonl"))
    arguments = parser.parse_args(argv)
    results = ResultsFile(arguments.results)
    jobs = [
        {"dataset": dataset, "strategy": strategy, "seed": seed, "precision": precision, "rows": arguments.rows}
        | {"code": machine.code("ours"), "versions": machine.versions()}
        for seed in arguments.seeds
        for dataset in arguments.datasets
        for strategy in arguments.strategies
        for precision in PRECISIONS
    ]
    for number, job in enumerate(jobs, start=1):
        line = results.find(job) or results.add(job | measure(job, arguments.data))
        name = " ".join(str(job[key]) for key in ("dataset", "strategy", "precision", "seed"))
        print(f"[{number}/{len(jobs)}] {name}: {line['accuracy']:.4f}", file=sys.stderr)
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions().items())
    seeds = ", ".join(map(str, arguments.seeds))
    print(f"{time.strftime('%Y-%m-%d')}: {machine.processor()}, our code {machine.code('ours')}; {versions}")
    epochs = SHARED_SETTINGS["training.epochs"]
    print(f"{arguments.rows:,} training rows, {epochs} epochs, seeds {seeds}; mean ± deviation\n")
    print("\n".join(table(results.select(jobs))))


def measure(job: Line, data: Path) -> dict[str, float]:
    """Adapt, and return the figures on the test rows."""
    from nlp_transfer.composing.words import from_mapping
    from nlp_transfer.config import compose
    from nlp_transfer.running.run import adapt

    with tempfile.TemporaryDirectory() as scratch:
        draw_splits(data / job["dataset"], Path(scratch), rows=job["rows"], seed=job["seed"])
        values = SHARED_SETTINGS | {
            "data.path": scratch,
            "output": str(Path(scratch) / "runs"),
            "strategy": job["strategy"],
            "seed": job["seed"],
            "training.precision": job["precision"],
        }
        metrics = adapt(compose(None, from_mapping(values))).metrics
    return {name: metrics[name] for name in FIGURES}


def table(rows: Sequence[Line]) -> Iterator[str]:
    """Yield the lines of a Markdown table: one row per data set, then one over all data sets."""
    columns = [f"{figure.replace('_', '-')} {what}" for figure in FIGURES for what in (*PRECISIONS, "difference")]
    yield from markdown_header(["strategy", "data set", *columns]).splitlines()
    for strategy in dict.fromkeys(row["strategy"] for row in rows):
        own = [row for row in rows if row["strategy"] == strategy]
        datasets = list(dict.fromkeys(row["dataset"] for row in own))
        for name in [*datasets, "all"] if len(datasets) > 1 else datasets:
            shown = [row for row in own if name in (row["dataset"], "all")]
            cells: list[str] = []
            for figure in FIGURES:
                values = [np.array([row[figure] for row in shown if row["precision"] == p]) for p in PRECISIONS]
                # Means over different data sets are left out, because they are not comparable.
                cells += [mean_and_deviation(own) if name != "all" else "" for own in values]
                cells.append(paired_difference(values[1] - values[0], 4))
            yield markdown_row([strategy, name, *cells])


def mean_and_deviation(values: np.ndarray) -> str:
    """Format the mean and the standard deviation; a single value has no deviation."""
    return f"{values.mean():.4f} ± {values.std(ddof=1):.4f}" if len(values) > 1 else f"{values[0]:.4f}"


if __name__ == "__main__":
    main()
