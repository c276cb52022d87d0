"""The choice of `strategy=auto` compared with every strategy, at several numbers of labels and on many data sets.

    python recipes/benchmarks/choosing.py DATA_FOLDER [--datasets trec sst5 ...] [--seeds 3] [--results FILE]

DATA_FOLDER has one folder per data set with train, validation and test files. `nlp-transfer compare` tries every
strategy with 4, 16 and 64 training rows per class, drawn by the seed, as many validation rows, and the default number
of steps; all test rows are measured. The first table has the scores, macro-F1 as the mean over the seeds. The second
has the regret of `strategy=auto` and of using one strategy everywhere: the difference to the best strategy in
hindsight. The rule of auto was derived from the data sets of MADE_FROM; those of HELD_OUT were not used. Scores are
appended to --results and not measured again; where auto is fine-tuning (by the numbers of rows in all and per class),
it has the scores of fine-tuning.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from nlp_transfer.running.choosing import FEW, FEW_PAIRS, FEW_ROWS
from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.command import data_parser
from recipes.benchmarks.timing.results import ResultsFile
from recipes.benchmarks.timing.tables import markdown_header, markdown_row

MADE_FROM = ("trec", "tweet_emotion", "cr", "scicite", "banking77", "sst5", "mrpc", "sick")
HELD_OUT = ("tweet_irony", "sst2", "rte")
LABELS = (4, 16, 64)
PAIRS = ("mrpc", "sick", "rte")
COMPARED = {"data": "files", "compare.scratch": False, "evaluation.resamples": 100}
AUTO, DEFAULT = "auto", "finetune"
STRATEGIES = ("probe", DEFAULT, "lora", AUTO)


def main(argv: list[str] | None = None) -> None:
    """Measure, and print the tables as Markdown."""
    parser = data_parser(__doc__)
    parser.add_argument("--datasets", nargs="+", default=[*MADE_FROM, *HELD_OUT])
    parser.add_argument("--labels", nargs="+", type=int, default=LABELS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, help="JSON lines of scores")
    arguments = parser.parse_args(argv)
    print(machine.heading() + "\n")
    lines = [line for dataset in arguments.datasets for line in measure(dataset, arguments)]
    show(lines)


def measure(dataset: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a line for every strategy and baseline, number of labels and seed; measure the missing ones."""
    results = ResultsFile(arguments.results)
    lines = [line for line in results.lines if line["dataset"] == dataset]
    for labels in arguments.labels:
        known = {line["strategy"] for line in lines if line["labels"] == labels}
        rows = next((line["rows"] for line in lines if line["labels"] == labels), 0)
        needed = [name for name in STRATEGIES if name != AUTO or not _auto_is_default(dataset, labels, rows)]
        if missing := [name for name in needed if name not in known]:
            # Baselines are measured in every comparison, so they may be known.
            new = [line for line in _compare(dataset, labels, missing, arguments) if line["strategy"] not in known]
            lines += map(results.add, new)
    return [line for line in lines if line["labels"] in arguments.labels]


def _auto_is_default(dataset: str, labels: int, rows: int) -> bool:
    """Return whether auto chooses fine-tuning for these numbers of rows, per class and in all."""
    return labels >= FEW_PAIRS if dataset in PAIRS else labels >= FEW and rows >= FEW_ROWS


def _compare(dataset: str, labels: int, names: list[str], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    import nlp_transfer

    with tempfile.TemporaryDirectory() as runs:
        outcome = nlp_transfer.compare(
            None,
            {
                **COMPARED,
                "data.path": str(arguments.data / dataset),
                "output": runs,
                "compare.candidates": names,
                "compare.labels": [labels],
                "compare.seeds": arguments.seeds,
            },
        )
    return [
        {
            "dataset": dataset,
            "strategy": cell.name,
            "labels": labels,
            "rows": cell.rows,
            "seed": seed,
            "metric": outcome.metric,
            "value": round(value, 4),
            "seconds": round(cell.seconds, 1),
        }
        for cell in outcome.cells
        for seed, value in zip(outcome.seeds, cell.values, strict=True)
    ]


def show(lines: list[dict[str, Any]]) -> None:
    """Print the mean scores, and the regret of each choice on the data sets that the rule is made from and others."""
    values: dict[tuple[str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        values[line["dataset"], line["labels"]][line["strategy"]].append(line["value"])
    scores = {key: {name: float(np.mean(own)) for name, own in each.items()} for key, each in values.items()}
    rows = {(line["dataset"], line["labels"]): line["rows"] for line in lines}
    for (dataset, labels), score in scores.items():
        if _auto_is_default(dataset, labels, rows[dataset, labels]):
            score[AUTO] = score[DEFAULT]
    names = [*STRATEGIES, "tfidf"]
    print(markdown_header(["data set", "labels per class", *names]))
    for (dataset, labels), score in scores.items():
        print(markdown_row([dataset, str(labels), *(f"{score[name]:.3f}" for name in names)]))
    columns = ["choice", "mean", "regret, made from", "maximum", "regret, held out", "maximum"]
    print("\n" + markdown_header(columns))
    for choice in STRATEGIES:
        cells = [f"{np.mean([score[choice] for score in scores.values()]):.3f}"]
        for seen in (True, False):
            own = [score for (dataset, _), score in scores.items() if (dataset in MADE_FROM) == seen]
            regrets = [max(score[name] for name in STRATEGIES) - score[choice] for score in own]
            cells += [f"{np.mean(regrets):.3f}", f"{max(regrets):.3f}"] if regrets else ["", ""]
        print(markdown_row(["auto" if choice == AUTO else f"always {choice}", *cells]))


if __name__ == "__main__":
    main()
