"""What learning one task after the other costs the earlier ones, and what keeps it.

    python recipes/benchmarks/continual.py DATA_FOLDER [--scenarios classes domains] [--methods "LwF" ...] [--steps 7]
        [--rows 100] [--tests 40] [--domains books kitchen ...] [--epochs 3] [--length 128] [--seeds 1] [--results FILE]

DATA_FOLDER/banking77 holds train and test files, DATA_FOLDER/reviews one folder a domain with such files. "classes":
the labels of banking77, in an order of chance, are divided into as many tasks; each run goes on from the one before,
knows all labels so far and is measured on the test rows of each task among all of them. "domains": the same two labels
in one domain after the other. MiniLM is fine-tuned; the last weights are kept and nothing is calibrated, so that no
validation rows are needed. Replayed are 1 or 5 % of as many rows as all earlier tasks had. "at once" learns all rows
of all tasks together.

Accuracy is the mean over all tasks in the end, transfer and forgetting are those of ``evaluation/task_matrix.py``;
"last" is the accuracy on the task learned last: what keeps the old may hinder the new. Every result is appended to
--results at once and is not computed again, so that an interrupted benchmark goes on. The first task is learned once
for all methods that fine-tune, in the seconds of the first of them.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.kept import Kept

ADAPTERS, TOGETHER = "one adapter a task", "at once"
ANCHOR, LWF = ["objective=anchor"], ["objective=distill"]
# What is learned beside the rows, and the share of the earlier rows that is replayed.
METHODS: dict[str, tuple[list[str], float]] = {
    "in turn": ([], 0.0),
    "L2-SP": (ANCHOR, 0.0),
    "LwF": (LWF, 0.0),
    "replay 1 %": ([], 0.01),
    "replay 5 %": ([], 0.05),
    "EWC, replay 5 %": ([*ANCHOR, "objective.anchor.kind=ewc"], 0.05),
    "LwF, replay 1 %": (LWF, 0.01),
    "LwF, replay 5 %": (LWF, 0.05),
    ADAPTERS: (["strategy=lora", "strategy.merge=false"], 0.0),
    TOGETHER: ([], 0.0),
}
OWN = ["data=files", "verify=false", "report.write=false", "evaluation.floors=false", "evaluation.resamples=2"]
OWN += ["training.keep=last", "decision.calibrate=false", "data.validation_share=0"]
START: list[str] = []  # the encoder of the first task
DOMAINS = ("books", "electronics", "kitchen", "imdb")
Row = dict[str, str]


def main(words: list[str] | None = None) -> None:
    """Run what is missing and print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--scenarios", nargs="+", default=["classes", "domains"], choices=["classes", "domains"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--steps", type=int, default=7, help="tasks that the labels are divided into")
    parser.add_argument("--domains", nargs="+", default=list(DOMAINS))
    parser.add_argument("--rows", type=int, help="training rows of a class in a task, at most")
    parser.add_argument("--tests", type=int, help="test rows of a class in a task, at most")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--length", type=int, default=128, help="tokens of a text that are read")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--results", type=Path, default=Path("continual.jsonl"))
    arguments = parser.parse_args(words)
    print(machine.heading() + "\n")
    kept = Kept(arguments.results)
    for scenario in arguments.scenarios:
        methods = [name for name in arguments.methods if scenario == "domains" or name != ADAPTERS]
        steps = arguments.steps if scenario == "classes" else "+".join(arguments.domains)
        own = {"scenario": scenario, "steps": steps, "rows": arguments.rows}
        own |= {key: getattr(arguments, key) for key in ("tests", "epochs", "length")}
        wanted = [[own | {"method": method, "seed": seed} for method in methods] for seed in range(arguments.seeds)]
        for of_seed in wanted:
            missing = kept.missing(of_seed)
            for found in measured(arguments, missing) if missing else ():
                kept.add(found)
        show(scenario, methods, [line for of_seed in wanted for line in kept.of(of_seed)])


def measured(arguments: argparse.Namespace, wanted: list[dict[str, Any]]) -> Any:
    """Yield what every method comes to in one scenario with one seed."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, asked = Path(scratch), wanted[0]
        if asked["scenario"] == "classes":
            tasks = classes(arguments.data / "banking77", arguments.steps, asked["seed"])
        else:
            tasks = [splits_of(arguments.data / "reviews" / name) for name in arguments.domains]
        most = {"train": arguments.rows, "test": arguments.tests}
        tasks = [{split: limited(rows, most[split], asked["seed"]) for split, rows in task.items()} for task in tasks]
        for number, task in enumerate(tasks):
            write(task, folder / f"task-{number + 1}")
        whole = {split: [row for task in tasks for row in task[split]] for split in ("train", "test")}
        write(whole, folder / "all")
        for asked in wanted:
            began = time.process_time()
            figures = learned(asked, tasks, folder)
            yield asked | {"figures": figures, "seconds": round(time.process_time() - began, 1)}


def learned(asked: dict[str, Any], tasks: list[dict[str, list[Row]]], folder: Path) -> list[list[float | None]]:
    """Return the accuracy after each task on each, None where it knows none of the labels."""
    from nlp_transfer.config import compose
    from nlp_transfer.running.run import adapt

    words, share = METHODS[asked["method"]]
    common = [*OWN, f"output={folder / 'runs'}", f"seed={asked['seed']}", f"training.epochs={asked['epochs']}"]
    common += [f"tokens.max_length={asked['length']}"]
    common += [] if asked["method"] == ADAPTERS else ["strategy=finetune"]

    def trained(name: str, *more: str) -> Path:
        return adapt(compose(None, [*common, f"data.path={folder / name}", *more])).folder

    if asked["method"] == TOGETHER:
        model = trained("all", *START)
        return [[accuracy(model, task["test"]) for task in tasks]] * len(tasks)
    runs: list[Path] = []
    figures: list[list[float | None]] = []
    for number in range(len(tasks)):
        more = [*START, *(words if asked["method"] == ADAPTERS else [])]
        if runs and asked["method"] != ADAPTERS:
            before = sum(len(task["train"]) for task in tasks[:number])
            replayed = [f"continual.replay={round(share * before)}"] if share else []
            more = [f"encoder={runs[-1]}", "continual.labels=all", *replayed, *words]
        runs.append(trained(f"task-{number + 1}", *more))
        own = [runs[min(place, number)] if asked["method"] == ADAPTERS else runs[-1] for place in range(len(tasks))]
        seen = len(tasks) if asked["scenario"] == "domains" else number + 1
        rows = [accuracy(model, task["test"]) for model, task in zip(own[:seen], tasks, strict=False)]
        figures.append([*rows, *[None] * (len(tasks) - seen)])
    return figures


def accuracy(model: Path, rows: Sequence[Row]) -> float:
    """Return the share of rows to which a model gives their label."""
    import nlp_transfer

    given = nlp_transfer.load(model).predict([row["text"] for row in rows])
    return round(float(np.mean([each.label == row["label"] for each, row in zip(given, rows, strict=True)])), 4)


def classes(folder: Path, steps: int, seed: int) -> list[dict[str, list[Row]]]:
    """Divide rows by their labels, which come in an order of chance."""
    splits = splits_of(folder)
    labels = sorted({row["label"] for row in splits["train"]})
    parts = np.array_split(np.random.default_rng(seed).permutation(labels), steps)
    return [
        {split: [row for row in rows if row["label"] in set(part)] for split, rows in splits.items()} for part in parts
    ]


def splits_of(folder: Path) -> dict[str, list[Row]]:
    """Read training and test rows."""
    found = {}
    for split in ("train", "test"):
        with (folder / f"{split}.csv").open(encoding="utf-8", newline="") as lines:
            found[split] = [{key: row[key] for key in ("text", "label")} for row in csv.DictReader(lines)]
    return found


def limited(rows: list[Row], most: int | None, seed: int) -> list[Row]:
    """Return at most so many rows of each label, by chance."""
    if most is None:
        return rows
    left: dict[str, int] = {}
    chosen = []
    for place in np.random.default_rng(seed).permutation(len(rows)):
        label = rows[place]["label"]
        left[label] = left.get(label, most) - 1
        chosen += [int(place)] if left[label] >= 0 else []
    return [rows[place] for place in sorted(chosen)]


def write(splits: dict[str, list[Row]], folder: Path) -> None:
    """Write training and test rows."""
    folder.mkdir()
    for split in ("train", "test"):
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as out:
            writer = csv.DictWriter(out, ["text", "label"], lineterminator="\n")
            writer.writeheader()
            writer.writerows(splits[split])


def show(scenario: str, methods: Sequence[str], lines: list[dict[str, Any]]) -> None:
    """Print the mean over the seeds of every method."""
    from nlp_transfer.evaluation.task_matrix import TaskMatrix

    heads = ("accuracy", "last", "backward transfer", "forward transfer", "forgetting", "CPU s")
    print(f"| {scenario} | {' | '.join(heads)} |\n|---{'|---' * len(heads)}|")
    for method in methods:
        rows = []
        for line in (line for line in lines if line["method"] == method):
            figures = np.array(line["figures"], dtype=float)
            before = np.full(len(figures), 0.5) if scenario == "domains" else None
            found, together = TaskMatrix(figures, before), method == TOGETHER
            moved = [found.backward_transfer, found.forward_transfer, found.forgetting]
            rows.append([found.average, figures[-1, -1], *([np.nan] * 3 if together else moved), line["seconds"]])
        if rows:
            *means, seconds = np.mean(rows, axis=0)
            cells = ["–" if np.isnan(each) else f"{each:.3f}" for each in means]
            print(f"| {method} | {' | '.join(cells)} | {seconds:.0f} |")
    print()


if __name__ == "__main__":
    main()
