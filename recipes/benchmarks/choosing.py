"""What `strategy=auto` is worth: its choice beside every strategy, at several numbers of labels, on many data sets.

    python recipes/benchmarks/choosing.py DATA_FOLDER [--datasets trec sst5 ...] [--seeds 2] [--results FILE]

DATA_FOLDER holds one folder a data set with train, validation and test files. `nlp-transfer compare` tries every
strategy with 4, 16 and 64 training rows a class, drawn by the seed, and as many to choose by, in as many steps as a run
has by itself; all test rows are measured. "Regret" is what a choice lacks to the best strategy in hindsight, in
macro-F1, mean over the seeds: of the rule, and of each strategy for everything. The rule was made from the data sets of
MADE_FROM; the others it has not seen. Scores are appended to --results and not measured again. Beside them stand the
results of strategies.py, which have 500 training rows (or the fewer that its MOST_ROWS says), whatever the number of
classes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.strategies import MOST_ROWS
from recipes.benchmarks.timing import machine

MADE_FROM = ("trec", "tweet_emotion")
HELD_OUT = ("tweet_irony", "cr", "sst5", "scicite", "banking77", "sst2")
LABELS = (4, 16, 64)
AT_500 = Path(__file__).parent / "results" / "strategies.jsonl"
ROWS = 500
CLASSES = {"goemotions": 28, "banking77": 77, "trec": 6, "tweet_emotion": 4, "umsab": 3, "sick": 3}  # others: 2
STRATEGIES = ("probe", "finetune", "lora")


def main(words: list[str] | None = None) -> None:
    """Run, and print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--datasets", nargs="+", default=[*MADE_FROM, *HELD_OUT])
    parser.add_argument("--labels", nargs="+", type=int, default=LABELS)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--results", type=Path, help="JSON lines of scores")
    arguments = parser.parse_args(words)
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions().items())
    print(f"{time.strftime('%Y-%m-%d')}: {machine.processor()}; {versions}\n")
    lines = [line for dataset in arguments.datasets for line in measure(dataset, arguments)]
    _tell(lines)


def measure(dataset: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a line for every strategy, number of labels and seed."""
    known = _known(arguments.results, dataset)
    if known:
        return known
    import nlp_transfer

    with tempfile.TemporaryDirectory() as runs:
        outcome = nlp_transfer.compare(
            None,
            {
                "data": "files",
                "data.path": str(arguments.data / dataset),
                "output": runs,
                "compare.candidates": list(STRATEGIES),
                "compare.labels": list(arguments.labels),
                "compare.seeds": arguments.seeds,
                "compare.scratch": False,
                "evaluation.resamples": 100,
            },
        )
    lines = [
        {
            "dataset": dataset,
            "strategy": cell.name,
            "labels": int(cell.labels),
            "rows": cell.rows,
            "seed": seed,
            "metric": outcome.metric,
            "value": round(value, 4),
            "seconds": round(cell.seconds, 1),
        }
        for cell in outcome.cells
        for seed, value in zip(outcome.seeds, cell.values, strict=True)
    ]
    if arguments.results is not None:
        with arguments.results.open("a", encoding="utf-8") as out:
            out.writelines(json.dumps(line) + "\n" for line in lines)
    return lines


def _known(results: Path | None, dataset: str) -> list[dict[str, Any]]:
    if results is None or not results.is_file():
        return []
    lines = map(json.loads, results.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["dataset"] == dataset]


def _tell(lines: list[dict[str, Any]]) -> None:
    found: dict[tuple[str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        found[line["dataset"], line["labels"]][line["strategy"]].append(line["value"])
    scores = {key: {name: float(np.mean(values)) for name, values in of.items()} for key, of in found.items()}
    names = [*STRATEGIES, "tfidf"]
    print(f"| data set | labels a class | {' | '.join(names)} |\n|---|---{'|---' * len(names)}|")
    for (dataset, labels), of in scores.items():
        print(f"| {dataset} | {labels} | {' | '.join(f'{of[name]:.3f}' for name in names)} |")
    _tell_regrets(scores, {key: key[1] for key in scores})
    print(f"\n{ROWS} training rows, {AT_500.name}:")
    scores = {(name, ROWS): of for name, of in _at_500().items()}
    rows = {key: min(key[1], MOST_ROWS.get(key[0], key[1])) for key in scores}
    _tell_regrets(scores, {key: rows[key] / CLASSES.get(key[0], 2) for key in scores})


def _tell_regrets(scores: dict[tuple[str, int], dict[str, float]], rows_a_class: dict[tuple[str, int], float]) -> None:
    from nlp_transfer.choosing import FEW

    print("\n| choice | regret, made from | most | regret, not seen | most |\n|---|---|---|---|---|")
    choices = {"auto": {key: "lora" if rows_a_class[key] < FEW else "finetune" for key in scores}}
    choices |= {f"always {name}": dict.fromkeys(scores, name) for name in STRATEGIES}
    for name, chosen in choices.items():
        cells = []
        for seen in (True, False):
            regrets = [
                max(of[each] for each in STRATEGIES) - of[chosen[key]]
                for key, of in scores.items()
                if (key[0] in MADE_FROM) == seen
            ]
            cells += [f"{np.mean(regrets):.3f}", f"{max(regrets):.3f}"] if regrets else ["", ""]
        print(f"| {name} | {' | '.join(cells)} |")


def _at_500() -> dict[str, dict[str, float]]:
    """Return the mean over seeds of every strategy by data set."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in map(json.loads, AT_500.read_text(encoding="utf-8").splitlines()):
        if line["method"] in STRATEGIES and line["rows"] == ROWS:
            found[line["dataset"]][line["method"]].append(line["value"])
    return {
        name: {method: float(np.mean(values)) for method, values in of.items()}
        for name, of in found.items()
        if set(of) == set(STRATEGIES)
    }


if __name__ == "__main__":
    main()
