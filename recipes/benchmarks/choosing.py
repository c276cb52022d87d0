"""What `strategy=auto` is worth: its choice beside every strategy, at several numbers of labels, on many data sets.

    python recipes/benchmarks/choosing.py DATA_FOLDER [--datasets trec sst5 ...] [--seeds 3] [--results FILE]

DATA_FOLDER holds one folder a data set with train, validation and test files. `nlp-transfer compare` tries every
strategy with 4, 16 and 64 training rows a class, drawn by the seed, and as many to choose by, in as many steps as a run
has by itself; all test rows are measured. "Regret" is what a choice lacks to the best strategy in hindsight, in
macro-F1, mean over the seeds: of `strategy=auto`, and of each strategy for everything. The rule was made from the data
sets of MADE_FROM; the others it has not seen. Scores are appended to --results and not measured again; where auto is
plain fine-tuning for its rows, in all and a class, its scores are those of fine-tuning.
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
from recipes.benchmarks.timing.kept import Kept

MADE_FROM = ("trec", "tweet_emotion", "cr", "scicite", "banking77", "sst5", "mrpc", "sick")
HELD_OUT = ("tweet_irony", "sst2", "rte")
LABELS = (4, 16, 64)
PAIRS = ("mrpc", "sick", "rte")
COMPARED = {"data": "files", "compare.scratch": False, "evaluation.resamples": 100}
AUTO, USUAL = "auto", "finetune"
STRATEGIES = ("probe", USUAL, "lora", AUTO)


def main(words: list[str] | None = None) -> None:
    """Run, and print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--datasets", nargs="+", default=[*MADE_FROM, *HELD_OUT])
    parser.add_argument("--labels", nargs="+", type=int, default=LABELS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, help="JSON lines of scores")
    arguments = parser.parse_args(words)
    print(machine.heading() + "\n")
    lines = [line for dataset in arguments.datasets for line in measure(dataset, arguments)]
    _tell(lines)


def measure(dataset: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a line for every strategy and floor, number of labels and seed; measure what is missing."""
    kept = Kept(arguments.results)
    lines = [line for line in kept.lines if line["dataset"] == dataset]
    for labels in arguments.labels:
        there = {line["strategy"] for line in lines if line["labels"] == labels}
        rows = next((line["rows"] for line in lines if line["labels"] == labels), 0)
        wanted = [name for name in STRATEGIES if name != AUTO or not _is_usual(dataset, labels, rows)]
        if missing := [name for name in wanted if name not in there]:
            # Floors come with every comparison.
            found = [line for line in _measured(dataset, labels, missing, arguments) if line["strategy"] not in there]
            lines += map(kept.add, found)
    return [line for line in lines if line["labels"] in arguments.labels]


def _is_usual(dataset: str, labels: int, rows: int) -> bool:
    """Return whether auto is plain fine-tuning with so many rows a class, and so many in all."""
    return labels >= FEW_PAIRS if dataset in PAIRS else labels >= FEW and rows >= FEW_ROWS


def _measured(dataset: str, labels: int, names: list[str], arguments: argparse.Namespace) -> list[dict[str, Any]]:
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


def _tell(lines: list[dict[str, Any]]) -> None:
    found: dict[tuple[str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        found[line["dataset"], line["labels"]][line["strategy"]].append(line["value"])
    scores = {key: {name: float(np.mean(values)) for name, values in of.items()} for key, of in found.items()}
    rows = {(line["dataset"], line["labels"]): line["rows"] for line in lines}
    for (dataset, labels), of in scores.items():
        if _is_usual(dataset, labels, rows[dataset, labels]):
            of[AUTO] = of[USUAL]
    names = [*STRATEGIES, "tfidf"]
    print(f"| data set | labels a class | {' | '.join(names)} |\n|---|---{'|---' * len(names)}|")
    for (dataset, labels), of in scores.items():
        print(f"| {dataset} | {labels} | {' | '.join(f'{of[name]:.3f}' for name in names)} |")
    print("\n| choice | mean | regret, made from | most | regret, not seen | most |\n|---|---|---|---|---|---|")
    for chosen in STRATEGIES:
        cells = [f"{np.mean([of[chosen] for of in scores.values()]):.3f}"]
        for seen in (True, False):
            regrets = [
                max(of[name] for name in STRATEGIES) - of[chosen]
                for key, of in scores.items()
                if (key[0] in MADE_FROM) == seen
            ]
            cells += [f"{np.mean(regrets):.3f}", f"{max(regrets):.3f}"] if regrets else ["", ""]
        print(f"| {'auto' if chosen == AUTO else f'always {chosen}'} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
