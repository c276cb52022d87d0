"""Forgetting when tasks are learned one after the other, and methods that reduce it.

    python recipes/benchmarks/continual.py DATA_FOLDER [--scenarios classes domains] [--methods "LwF" ...] [--steps 7]
        [--rows 100] [--tests 40] [--domains books kitchen ...] [--epochs 3] [--length 128] [--seeds 1] [--results FILE]

DATA_FOLDER/banking77 has train and test files, DATA_FOLDER/reviews one folder per domain with such files. "classes":
the labels of banking77, in random order, are divided into --steps tasks; each run continues the previous one, knows all
labels so far, and is measured on the test rows of each task among all these labels. "domains": the same two labels in
one domain after the other. MiniLM is fine-tuned; the last weights are kept and nothing is calibrated, so no validation
rows are needed. Replay takes 1 or 5 % of the number of rows of all earlier tasks. "at once" trains on the rows of all
tasks together.

The output is one table per scenario: accuracy is the mean over all tasks after the last one; "last" is the accuracy on
the task learned last, which methods against forgetting may lower; transfer and forgetting are defined in
``evaluation/task_matrix.py``. Each measurement is appended to --results at once and not repeated, so an interrupted
benchmark can be continued. The first task is trained once for all methods that fine-tune; its processor seconds are
part of the first of them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.command import MINIMAL_WORDS, data_parser
from recipes.benchmarks.timing.results import Line, ResultsFile
from recipes.benchmarks.timing.rows import Row, read_rows, write_rows
from recipes.benchmarks.timing.tables import markdown_header, markdown_row

SPLITS = ("train", "test")

ADAPTERS, TOGETHER = "one adapter a task", "at once"  # names in the results file
ANCHOR, LWF = ["objective=anchor"], ["objective=distill"]
# method -> (settings, share of the earlier rows that is replayed)
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
SHARED_WORDS = ["data=files", *MINIMAL_WORDS, "evaluation.resamples=2"]
SHARED_WORDS += ["training.keep=last", "decision.calibrate=false", "data.validation_share=0"]
START_WORDS: list[str] = []  # settings of the first task only, such as its encoder
DOMAINS = ("books", "electronics", "kitchen", "imdb")
Task = dict[str, list[Row]]  # its rows, by split


def main(argv: list[str] | None = None) -> None:
    """Measure what the results file lacks, and print the tables as Markdown."""
    parser = data_parser(__doc__)
    parser.add_argument("--scenarios", nargs="+", default=["classes", "domains"], choices=["classes", "domains"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--steps", type=int, default=7, help="tasks that the labels are divided into")
    parser.add_argument("--domains", nargs="+", default=list(DOMAINS))
    parser.add_argument("--rows", type=int, help="maximum training rows per class and task")
    parser.add_argument("--tests", type=int, help="maximum test rows per class and task")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--length", type=int, default=128, help="maximum tokens of a text")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--results", type=Path, default=Path("continual.jsonl"))
    arguments = parser.parse_args(argv)
    print(machine.heading() + "\n")
    results = ResultsFile(arguments.results)
    for scenario in arguments.scenarios:
        methods = [name for name in arguments.methods if scenario == "domains" or name != ADAPTERS]
        steps = arguments.steps if scenario == "classes" else "+".join(arguments.domains)
        shared = {"scenario": scenario, "steps": steps, "rows": arguments.rows}
        shared |= {key: getattr(arguments, key) for key in ("tests", "epochs", "length")}
        lines: list[Line] = []
        for seed in range(arguments.seeds):
            jobs = [shared | {"method": method, "seed": seed} for method in methods]
            missing = results.missing(jobs)
            for line in measure(arguments, missing) if missing else ():
                results.add(line)
            lines += results.select(jobs)
        show(scenario, methods, lines)


def measure(arguments: argparse.Namespace, jobs: list[Line]) -> Iterator[Line]:
    """Yield the measurement of each job; all jobs have the same scenario and seed."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, seed = Path(scratch), jobs[0]["seed"]
        if jobs[0]["scenario"] == "classes":
            tasks = divide_by_label(arguments.data / "banking77", arguments.steps, seed)
        else:
            tasks = [read_task(arguments.data / "reviews" / name) for name in arguments.domains]
        limits = {"train": arguments.rows, "test": arguments.tests}
        tasks = [{split: limit_rows(rows, limits[split], seed) for split, rows in task.items()} for task in tasks]
        for number, task in enumerate(tasks):
            write_task(task, folder / f"task-{number + 1}")
        write_task({split: [row for task in tasks for row in task[split]] for split in SPLITS}, folder / "all")
        for job in jobs:
            started = time.process_time()
            figures = learn_tasks(job, tasks, folder)
            yield job | {"figures": figures, "seconds": round(time.process_time() - started, 1)}


def learn_tasks(job: Line, tasks: list[Task], folder: Path) -> list[list[float | None]]:
    """Return the accuracy on each task (columns) after each task (rows); None where its labels are not known yet."""
    from nlp_transfer.config import compose
    from nlp_transfer.running.run import adapt

    words, share = METHODS[job["method"]]
    shared = [*SHARED_WORDS, f"output={folder / 'runs'}", f"seed={job['seed']}", f"training.epochs={job['epochs']}"]
    shared += [f"tokens.max_length={job['length']}"]
    shared += [] if job["method"] == ADAPTERS else ["strategy=finetune"]

    def train(name: str, *own: str) -> Path:
        return adapt(compose(None, [*shared, f"data.path={folder / name}", *own])).folder

    if job["method"] == TOGETHER:
        model = train("all", *START_WORDS)
        return [[accuracy(model, task["test"]) for task in tasks]] * len(tasks)
    runs: list[Path] = []
    figures: list[list[float | None]] = []
    for number in range(len(tasks)):
        own = [*START_WORDS, *(words if job["method"] == ADAPTERS else [])]
        if runs and job["method"] != ADAPTERS:
            earlier_rows = sum(len(task["train"]) for task in tasks[:number])
            replay = [f"continual.replay={round(share * earlier_rows)}"] if share else []
            own = [f"encoder={runs[-1]}", "continual.labels=all", *replay, *words]
        runs.append(train(f"task-{number + 1}", *own))
        models = [runs[min(task, number)] if job["method"] == ADAPTERS else runs[-1] for task in range(len(tasks))]
        known = len(tasks) if job["scenario"] == "domains" else number + 1
        row = [accuracy(model, task["test"]) for model, task in zip(models[:known], tasks, strict=False)]
        figures.append([*row, *[None] * (len(tasks) - known)])
    return figures


def accuracy(model: Path, rows: Sequence[Row]) -> float:
    """Return the share of rows whose label a model predicts."""
    import nlp_transfer

    predictions = nlp_transfer.load(model).predict([row["text"] for row in rows])
    correct = [prediction.label == row["label"] for prediction, row in zip(predictions, rows, strict=True)]
    return round(float(np.mean(correct)), 4)


def divide_by_label(folder: Path, steps: int, seed: int) -> list[Task]:
    """Divide a data set into tasks with disjoint labels, drawn by the seed."""
    splits = read_task(folder)
    labels = sorted({row["label"] for row in splits["train"]})
    parts = np.array_split(np.random.default_rng(seed).permutation(labels), steps)
    return [
        {split: [row for row in rows if row["label"] in set(part)] for split, rows in splits.items()} for part in parts
    ]


def read_task(folder: Path) -> Task:
    """Read training and test rows."""
    return {split: read_rows(folder / f"{split}.csv") for split in SPLITS}


def limit_rows(rows: list[Row], maximum: int | None, seed: int) -> list[Row]:
    """Return at most `maximum` rows of each label, drawn by the seed; None: all rows."""
    if maximum is None:
        return rows
    counts, chosen = Counter[str](), []
    for index in np.random.default_rng(seed).permutation(len(rows)).tolist():
        label = rows[index]["label"]
        if counts[label] < maximum:
            counts[label] += 1
            chosen.append(index)
    return [rows[index] for index in sorted(chosen)]


def write_task(task: Task, folder: Path) -> None:
    """Write training and test rows."""
    folder.mkdir()
    for split, rows in task.items():
        write_rows(folder / f"{split}.csv", rows)


def show(scenario: str, methods: Sequence[str], lines: list[Line]) -> None:
    """Print the means over the seeds of every method."""
    from nlp_transfer.evaluation.task_matrix import TaskMatrix

    columns = ("accuracy", "last", "backward transfer", "forward transfer", "forgetting", "CPU s")
    print(markdown_header([scenario, *columns]))
    for method in methods:
        rows = []
        for line in (line for line in lines if line["method"] == method):
            figures = np.array(line["figures"], dtype=float)
            chance = np.full(len(figures), 0.5) if scenario == "domains" else None
            matrix = TaskMatrix(figures, chance)
            transfer = [matrix.backward_transfer, matrix.forward_transfer, matrix.forgetting]
            transfer = [np.nan] * 3 if method == TOGETHER else transfer
            rows.append([matrix.average, figures[-1, -1], *transfer, line["seconds"]])
        if rows:
            *means, seconds = np.mean(rows, axis=0)
            cells = ["–" if np.isnan(mean) else f"{mean:.3f}" for mean in means]
            print(markdown_row([method, *cells, f"{seconds:.0f}"]))
    print()


if __name__ == "__main__":
    main()
