"""Whether bfloat16 costs accuracy: the same runs in float32 and in bfloat16, pair by pair.

    python recipes/benchmarks/precision.py DATA_FOLDER [--datasets trec sst2 ...] [--strategies finetune probe]
        [--seeds 0 1 2] [--rows 1000] [--results precision.jsonl]

DATA_FOLDER holds one folder a data set with train, validation and test files. A pair has the same seed, training rows,
order of data, settings and test rows (at most 1,000); `training.precision` alone differs. Differences are bfloat16 less
float32, with the 95 % interval of their mean by Student's t: of the seeds of a data set, and of all pairs together.

Every result is appended to a JSON-lines file at once and is not computed again for the same code and versions, so that
an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.strategies import draw
from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.differences import paired
from recipes.benchmarks.timing.kept import Kept, Line

DATASETS = ("trec", "sst2", "tweet_emotion", "banking77")
STRATEGIES = ("finetune", "probe")
PRECISIONS = ("fp32", "bf16")
FIGURES = ("accuracy", "log_loss")
# What all runs share; nothing is kept for or taken from another run.
WORDS: dict[str, Any] = {
    "data": "files",
    "data.unseen": "ignore",
    "data.empty": "drop",
    "training.epochs": 2,
    "cache.gib": 0,
    "evaluation.floors": False,
    "evaluation.resamples": 2,
    "verify": False,
    "report.write": False,
}


def main(words: list[str] | None = None) -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS), choices=list(DATASETS))
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=list(STRATEGIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=1000, help="training rows, drawn by the seed")
    parser.add_argument("--results", type=Path, default=Path("precision.jsonl"))
    arguments = parser.parse_args(words)
    kept = Kept(arguments.results)
    runs = [
        {"dataset": dataset, "strategy": strategy, "seed": seed, "precision": precision, "rows": arguments.rows}
        | {"code": machine.code("ours"), "versions": machine.versions()}
        for seed in arguments.seeds
        for dataset in arguments.datasets
        for strategy in arguments.strategies
        for precision in PRECISIONS
    ]
    for number, run in enumerate(runs, start=1):
        found = kept.find(run) or kept.add(run | measure(run, arguments.data))
        words_of_run = " ".join(str(run[name]) for name in ("dataset", "strategy", "precision", "seed"))
        print(f"[{number}/{len(runs)}] {words_of_run}: {found['accuracy']:.4f}", file=sys.stderr)
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions().items())
    seeds = ", ".join(map(str, arguments.seeds))
    print(f"{time.strftime('%Y-%m-%d')}: {machine.processor()}, our code {machine.code('ours')}; {versions}")
    print(f"{arguments.rows:,} training rows, {WORDS['training.epochs']} epochs, seeds {seeds}; mean ± deviation\n")
    print("\n".join(table(kept.of(runs))))


def measure(run: Line, data: Path) -> dict[str, float]:
    """Adapt, and return the figures on the test rows."""
    from nlp_transfer.composing.words import from_mapping
    from nlp_transfer.config import compose
    from nlp_transfer.running.run import adapt

    with tempfile.TemporaryDirectory() as scratch:
        draw(data / run["dataset"], Path(scratch), rows=run["rows"], seed=run["seed"])
        values = WORDS | {
            "data.path": scratch,
            "output": str(Path(scratch) / "runs"),
            "strategy": run["strategy"],
            "seed": run["seed"],
            "training.precision": run["precision"],
        }
        metrics = adapt(compose(None, from_mapping(values))).metrics
    return {name: metrics[name] for name in FIGURES}


def table(rows: Sequence[Line]) -> Iterator[str]:
    """Yield the lines of a Markdown table: a data set a line, then all of them."""
    columns = [f"{figure.replace('_', '-')} {what}" for figure in FIGURES for what in (*PRECISIONS, "difference")]
    yield f"| strategy | data set | {' | '.join(columns)} |"
    yield "|---" * (2 + len(columns)) + "|"
    for strategy in dict.fromkeys(row["strategy"] for row in rows):
        own = [row for row in rows if row["strategy"] == strategy]
        datasets = list(dict.fromkeys(row["dataset"] for row in own))
        for name in [*datasets, "all"] if len(datasets) > 1 else datasets:
            shown = [row for row in own if name in (row["dataset"], "all")]
            cells: list[str] = []
            for figure in FIGURES:
                values = [np.array([row[figure] for row in shown if row["precision"] == p]) for p in PRECISIONS]
                # A mean of unlike data sets says nothing.
                cells += [spread(each) if name != "all" else "" for each in values]
                cells.append(paired(values[1] - values[0], 4))
            yield f"| {strategy} | {name} | {' | '.join(cells)} |"


def spread(values: np.ndarray) -> str:
    """Return mean and deviation, which one value alone does not have."""
    return f"{values.mean():.4f} ± {values.std(ddof=1):.4f}" if len(values) > 1 else f"{values[0]:.4f}"


if __name__ == "__main__":
    main()
