"""Multi-task training: gains over single tasks, gains per pair of tasks, and the cost of many heads on one encoder.

    python recipes/benchmarks/multitask.py DATA_FOLDER [--parts together matrix heads]
        [--tasks trec cr tweet_emotion tweet_irony scicite] [--rows 500] [--seeds 3] [--epochs 2] [--length 64]
        [--results FILE]

Each part prints one Markdown table.

- "together": MiniLM is fine-tuned on the training rows of all tasks at once, with each combination of sampling and
  balancing, and on each task alone. Figures are macro-F1 of the test rows; "gain" is the mean difference to training
  alone, with a 95 % interval by Student's t over tasks and seeds.
- "matrix": the gain of each task from training with one other task, seed 0.
- "heads": one run with a head for each of the eight most frequent labels of newsgroups20 (as yes/no columns) on a
  frozen encoder, compared with eight runs in the same process; without a cache, where each run encodes all texts, and
  with cached features. Times are processor seconds of whole runs, without baselines and report pages.

Each measurement is appended to --results at once and not repeated, so an interrupted benchmark can be continued.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.command import MINIMAL_WORDS, data_parser
from recipes.benchmarks.timing.intervals import paired_difference
from recipes.benchmarks.timing.results import Line, ResultsFile
from recipes.benchmarks.timing.rows import read_rows
from recipes.benchmarks.timing.tables import markdown_header, markdown_row

ALONE = "alone"
SETTINGS: dict[str, list[str]] = {
    "proportional": ["multitask.sampling=proportional"],
    "temperature": ["multitask.sampling=temperature"],
    "uniform": ["multitask.sampling=uniform"],
    "temperature, uncertainty": ["multitask.sampling=temperature", "multitask.balance=uncertainty"],
}
TASKS = ("trec", "cr", "tweet_emotion", "tweet_irony", "scicite")
SHARED_WORDS = list(MINIMAL_WORDS)
HEADS = 8


def main(argv: list[str] | None = None) -> None:
    """Measure what the results file lacks, and print the tables as Markdown."""
    parser = data_parser(__doc__)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), help="folders in DATA_FOLDER")
    parser.add_argument("--rows", type=int, default=500, help="training rows per task; ten times as many for heads")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--length", type=int, default=64, help="maximum tokens of a text")
    parser.add_argument("--results", type=Path, default=Path("multitask.jsonl"))
    arguments = parser.parse_args(argv)
    print(machine.heading() + "\n")
    results = ResultsFile(arguments.results)
    for part in arguments.parts:
        measure, show = PARTS[part]
        shared = {"part": part, "tasks": arguments.tasks, "rows": arguments.rows}
        shared |= {"epochs": arguments.epochs, "length": arguments.length}
        lines = [line for line in results.lines if shared.items() <= line.items()]
        for figures in measure(arguments, lines):
            lines.append(results.add(shared | figures))
        show(arguments, lines)


def finetune_words(arguments: argparse.Namespace, seed: int, output: Path) -> list[str]:
    """Return the settings that all fine-tuning runs share."""
    limits = [f"data.train_limit={arguments.rows}", f"data.validation_limit={arguments.rows}"]
    limits += [f"training.epochs={arguments.epochs}", f"tokens.max_length={arguments.length}"]
    return ["strategy=finetune", f"seed={seed}", f"output={output}", *SHARED_WORDS, *limits]


def measure_together(arguments: argparse.Namespace, known: list[Line]) -> Iterator[Line]:
    """Yield the figures of all tasks for each seed and setting that is not known yet."""
    from nlp_transfer.config import compose
    from nlp_transfer.multitask.task_set import read_tasks
    from nlp_transfer.multitask.together import adapt_together
    from nlp_transfer.running.run import adapt
    from nlp_transfer.terminal.console import Screen

    done = {(line["seed"], line["way"]) for line in known}
    for seed in range(arguments.seeds):
        for setting in (ALONE, *SETTINGS):
            if (seed, setting) in done:
                continue
            with tempfile.TemporaryDirectory() as scratch:
                shared = finetune_words(arguments, seed, Path(scratch))
                folders = {name: str(arguments.data / name) for name in arguments.tasks}
                if setting == ALONE:
                    runs = {
                        name: adapt(compose(None, ["data=files", f"data.path={folder}", *shared]))
                        for name, folder in folders.items()
                    }
                    figures = {name: run.metrics["macro_f1"] for name, run in runs.items()}
                else:
                    screen = Screen(quiet=True)
                    task_set = read_tasks(None, [*shared, *SETTINGS[setting]], screen, tasks=list(folders.values()))
                    figures = {task.name: task.together.value for task in adapt_together(task_set, screen).tasks}
                rounded = {name: round(figure, 4) for name, figure in figures.items()}
                yield {"seed": seed, "way": setting, "figures": rounded}


def show_together(arguments: argparse.Namespace, lines: list[Line]) -> None:
    """Print the mean of every task and setting, and the gain of each setting."""
    seeds = range(arguments.seeds)
    figures = {(line["way"], line["seed"]): line["figures"] for line in lines}
    print(markdown_header(["task", ALONE, *SETTINGS]))
    for name in arguments.tasks:
        means = [np.mean([figures[setting, seed][name] for seed in seeds]) for setting in (ALONE, *SETTINGS)]
        print(markdown_row([name, *(f"{mean:.3f}" for mean in means)]))
    cells = [""]
    for setting in SETTINGS:
        pairs = [(figures[setting, seed], figures[ALONE, seed]) for seed in seeds]
        gains = np.array([together[name] - alone[name] for together, alone in pairs for name in arguments.tasks])
        cells.append(paired_difference(gains))
    print(markdown_row(["gain", *cells]) + "\n")


def measure_matrix(arguments: argparse.Namespace, known: list[Line]) -> Iterator[Line]:
    """Yield the gains of each task from each other one, unless they are known."""
    from nlp_transfer.multitask.beside import compare_with_alone
    from nlp_transfer.multitask.task_set import read_tasks
    from nlp_transfer.multitask.together import adapt_together
    from nlp_transfer.terminal.console import Screen

    if known:
        return
    screen = Screen(quiet=True)
    with tempfile.TemporaryDirectory() as scratch:
        words = [*finetune_words(arguments, 0, Path(scratch)), "multitask.beside=pairs"]
        task_set = read_tasks(None, words, screen, tasks=[str(arguments.data / name) for name in arguments.tasks])
        outcome = compare_with_alone(task_set, adapt_together(task_set, screen), screen)
    yield {"gains": outcome.to_json()["gains"], "verdict": outcome.verdict}


def show_matrix(arguments: argparse.Namespace, lines: list[Line]) -> None:
    """Print the gain of each task (columns) from training with each other one (rows)."""
    gains = {(gain["teacher"], gain["task"]): gain for gain in lines[0]["gains"]}
    print(markdown_header(["with", *arguments.tasks]))
    for teacher in [*arguments.tasks, *sorted({name for name, _ in gains} - set(arguments.tasks))]:
        cells = []
        for name in arguments.tasks:
            gain = gains.get((teacher, name))
            mark = {"better": " (better)", "worse": " (WORSE)"}.get(gain["outcome"] if gain else "", "")
            cells.append(f"{gain['difference']['value']:+.3f}{mark}" if gain else "")
        print(markdown_row([teacher, *cells]))
    print("\n" + "\n".join(lines[0]["verdict"]) + "\n")


def measure_heads(arguments: argparse.Namespace, known: list[Line]) -> Iterator[Line]:
    """Yield the processor seconds of one run with all heads and of a run per head, with an empty and a filled cache."""
    from nlp_transfer.config import compose
    from nlp_transfer.multitask.task_set import read_tasks
    from nlp_transfer.multitask.together import adapt_together
    from nlp_transfer.running.run import adapt
    from nlp_transfer.terminal.console import Screen

    if known:
        return
    screen = Screen(quiet=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        names = write_label_columns(arguments.data / "newsgroups20", folder / "rows", 10 * arguments.rows)
        shared = ["strategy=probe", *SHARED_WORDS, f"tokens.max_length={arguments.length}"]
        columns = f"multitask.columns=[{','.join(names)}]"
        # A first run outside the measurement, because it imports modules.
        adapt(compose(None, [*shared, "data.train_limit=60", f"output={folder / 'first'}", "cache.gib=0"]))
        for cache in ("empty", "kept"):
            own = ["cache.gib=0"] if cache == "empty" else [f"cache.folder={folder / 'cache'}"]
            # With a cache the second time is measured, because the first fills it.
            for again in range(1 if cache == "empty" else 2):
                output = [f"output={folder / f'{cache}-{again}'}"]
                started = time.process_time()
                words = [*shared, *own, *output, columns]
                adapt_together(read_tasks(None, words, screen, tasks=[str(folder / "rows")]), screen)
                one = time.process_time() - started
                started = time.process_time()
                for name in names:
                    words = ["data=files", f"data.path={folder / 'rows'}", f"data.columns.label={name}"]
                    adapt(compose(None, [*words, *shared, *own, *output, f"name={name}"]))
                several = time.process_time() - started
            yield {"cache": cache, "one": round(one, 1), "several": round(several, 1)}


def write_label_columns(data: Path, folder: Path, count: int) -> list[str]:
    """Write rows with a yes/no column for each of the most frequent labels; return the names of these columns."""
    folder.mkdir()
    columns: dict[str, str] = {}  # by label
    for split, maximum in (("train", count), ("validation", count // 5), ("test", count // 5)):
        rows = read_rows(data / f"{split}.csv")
        rows = rows[:: max(1, len(rows) // maximum)][:maximum]  # files are sorted by class
        if not columns:
            frequent = Counter(row["label"] for row in rows).most_common(HEADS)
            columns = {label: re.sub(r"\W+", "_", label) for label, _ in frequent}
        table = [
            {"text": row["text"]} | {name: "yes" if row["label"] == label else "no" for label, name in columns.items()}
            for row in rows
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table), encoding="utf-8")
    return list(columns.values())


def show_heads(arguments: argparse.Namespace, lines: list[Line]) -> None:
    """Print the processor seconds and their ratio."""
    print(markdown_header(["cache", f"{HEADS} runs, s", f"{HEADS} heads in one, s", "times as fast"]))
    for line in lines:
        print(f"| {line['cache']} | {line['several']} | {line['one']} | {line['several'] / line['one']:.1f} |")


PARTS = {
    "together": (measure_together, show_together),
    "matrix": (measure_matrix, show_matrix),
    "heads": (measure_heads, show_heads),
}

if __name__ == "__main__":
    main()
