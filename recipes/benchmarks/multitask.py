"""What several tasks gain from learning together, whom that hurts, and what many heads on one frozen encoder cost.

    python recipes/benchmarks/multitask.py DATA_FOLDER [--parts together matrix heads]
        [--tasks trec cr tweet_emotion tweet_irony scicite] [--rows 500] [--seeds 3] [--epochs 2] [--length 64]
        [--results FILE]

"together": MiniLM is fine-tuned on the training rows of all tasks at once, by every way of sampling and balancing, and
on those of each task alone; figures are macro-F1 of the test rows, "gain" the mean difference to alone with a 95 %
interval by Student's t over tasks and seeds. "matrix": what a task gains from one other, seed 0. "heads": one frozen
encoder with a head for each of the eight commonest topics of newsgroups20, a column of yes and no each, beside eight
runs in the same warm process; with nothing in the cache, where each run reads all texts, and with the features kept
there. Times are processor seconds of whole runs, their models saved, without floors and pages.

Every result is appended to --results at once and is not computed again, so that an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.differences import paired
from recipes.benchmarks.timing.kept import Kept

ALONE = "alone"
WAYS: dict[str, list[str]] = {
    "proportional": ["multitask.sampling=proportional"],
    "temperature": ["multitask.sampling=temperature"],
    "uniform": ["multitask.sampling=uniform"],
    "temperature, uncertainty": ["multitask.sampling=temperature", "multitask.balance=uncertainty"],
}
TASKS = ("trec", "cr", "tweet_emotion", "tweet_irony", "scicite")
OWN = ["verify=false", "report.write=false", "evaluation.floors=false"]
HEADS = 8


def main(words: list[str] | None = None) -> None:
    """Run what is missing and print tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), help="folders in DATA_FOLDER")
    parser.add_argument("--rows", type=int, default=500, help="training rows of a task; the heads have ten times that")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--length", type=int, default=64, help="tokens of a text that are read")
    parser.add_argument("--results", type=Path, default=Path("multitask.jsonl"))
    arguments = parser.parse_args(words)
    print(machine.heading() + "\n")
    kept = Kept(arguments.results)
    for part in arguments.parts:
        measure, show = PARTS[part]
        own = {"part": part, "tasks": arguments.tasks, "rows": arguments.rows}
        own |= {"epochs": arguments.epochs, "length": arguments.length}
        before = [line for line in kept.lines if own.items() <= line.items()]
        for found in measure(arguments, before):
            before.append(kept.add(own | found))
        show(arguments, before)


def words_of(arguments: argparse.Namespace, seed: int, output: Path) -> list[str]:
    """Return the words that all trainings share."""
    limits = [f"data.train_limit={arguments.rows}", f"data.validation_limit={arguments.rows}"]
    limits += [f"training.epochs={arguments.epochs}", f"tokens.max_length={arguments.length}"]
    return ["strategy=finetune", f"seed={seed}", f"output={output}", *OWN, *limits]


def together(arguments: argparse.Namespace, known: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the figures of every task by every way and alone."""
    from nlp_transfer.config import compose
    from nlp_transfer.multitask.task_set import read_tasks
    from nlp_transfer.multitask.together import adapt_together
    from nlp_transfer.running.run import adapt
    from nlp_transfer.terminal.console import Screen

    done = {(line["seed"], line["way"]) for line in known}
    for seed in range(arguments.seeds):
        for way in [ALONE, *WAYS]:
            if (seed, way) in done:
                continue
            with tempfile.TemporaryDirectory() as scratch:
                shared = words_of(arguments, seed, Path(scratch))
                folders = {name: str(arguments.data / name) for name in arguments.tasks}
                if way == ALONE:
                    runs = {
                        name: adapt(compose(None, ["data=files", f"data.path={folder}", *shared]))
                        for name, folder in folders.items()
                    }
                    figures = {name: run.metrics["macro_f1"] for name, run in runs.items()}
                else:
                    screen = Screen(quiet=True)
                    task_set = read_tasks(None, [*shared, *WAYS[way]], screen, tasks=list(folders.values()))
                    figures = {task.name: task.together.value for task in adapt_together(task_set, screen).tasks}
                yield {"seed": seed, "way": way, "figures": {name: round(of, 4) for name, of in figures.items()}}


def show_together(arguments: argparse.Namespace, known: list[dict[str, Any]]) -> None:
    """Print the mean of every task and way, and what each way gains."""
    ways = [ALONE, *WAYS]
    of = {(line["way"], line["seed"]): line["figures"] for line in known if line["seed"] < arguments.seeds}
    print(f"| task | {' | '.join(ways)} |\n|---{'|---' * len(ways)}|")
    for name in arguments.tasks:
        means = [np.mean([of[way, seed][name] for seed in range(arguments.seeds)]) for way in ways]
        print(f"| {name} | {' | '.join(f'{mean:.3f}' for mean in means)} |")
    cells = [""]
    for way in WAYS:
        pairs = [(of[way, seed], of[ALONE, seed]) for seed in range(arguments.seeds)]
        gains = np.array([one[name] - other[name] for one, other in pairs for name in arguments.tasks])
        cells.append(paired(gains))
    print(f"| gain | {' | '.join(cells)} |\n")


def matrix(arguments: argparse.Namespace, known: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield what each task gains from each other one."""
    from nlp_transfer.multitask.beside import compare_with_alone
    from nlp_transfer.multitask.task_set import read_tasks
    from nlp_transfer.multitask.together import adapt_together
    from nlp_transfer.terminal.console import Screen

    if known:
        return
    screen = Screen(quiet=True)
    with tempfile.TemporaryDirectory() as scratch:
        words = [*words_of(arguments, 0, Path(scratch)), "multitask.beside=pairs"]
        task_set = read_tasks(None, words, screen, tasks=[str(arguments.data / name) for name in arguments.tasks])
        found = compare_with_alone(task_set, adapt_together(task_set, screen), screen)
    yield {"gains": found.to_json()["gains"], "verdict": found.verdict}


def show_matrix(arguments: argparse.Namespace, known: list[dict[str, Any]]) -> None:
    """Print who gains what from whom."""
    gains = {(each["teacher"], each["task"]): each for each in known[0]["gains"]}
    print(f"| with | {' | '.join(arguments.tasks)} |\n|---{'|---' * len(arguments.tasks)}|")
    for teacher in [*arguments.tasks, *sorted({name for name, _ in gains} - set(arguments.tasks))]:
        cells = []
        for name in arguments.tasks:
            each = gains.get((teacher, name))
            mark = {"better": " (better)", "worse": " (WORSE)"}.get(each["outcome"] if each else "", "")
            cells.append(f"{each['difference']['value']:+.3f}{mark}" if each else "")
        print(f"| {teacher} | {' | '.join(cells)} |")
    print("\n" + "\n".join(known[0]["verdict"]) + "\n")


def heads(arguments: argparse.Namespace, known: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the processor seconds of one run of all heads and of a run for each, the cache empty and full."""
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
        names = columns_of(arguments.data / "newsgroups20", folder / "rows", 10 * arguments.rows)
        shared = ["strategy=probe", *OWN, f"tokens.max_length={arguments.length}"]
        of_columns = f"multitask.columns=[{','.join(names)}]"
        # The first run of a process imports more than later ones.
        adapt(compose(None, [*shared, "data.train_limit=60", f"output={folder / 'first'}", "cache.gib=0"]))
        for cache in ("empty", "kept"):
            own = ["cache.gib=0"] if cache == "empty" else [f"cache.folder={folder / 'cache'}"]
            # Where features are kept, the first time of two is that in which they are.
            for again in range(1 if cache == "empty" else 2):
                output = [f"output={folder / f'{cache}-{again}'}"]
                began = time.process_time()
                words = [*shared, *own, *output, of_columns]
                adapt_together(read_tasks(None, words, screen, tasks=[str(folder / "rows")]), screen)
                one = time.process_time() - began
                began = time.process_time()
                for name in names:
                    words = ["data=files", f"data.path={folder / 'rows'}", f"data.columns.label={name}"]
                    adapt(compose(None, [*words, *shared, *own, *output, f"name={name}"]))
                several = time.process_time() - began
            yield {"cache": cache, "one": round(one, 1), "several": round(several, 1)}


def columns_of(data: Path, folder: Path, rows: int) -> list[str]:
    """Write rows with a column of yes and no for each of the commonest labels; return the names of these."""
    folder.mkdir()
    names: list[str] = []
    for split, most in (("train", rows), ("validation", rows // 5), ("test", rows // 5)):
        with (data / f"{split}.csv").open(encoding="utf-8", newline="") as lines:
            read = list(csv.DictReader(lines))
        read = read[:: max(1, len(read) // most)][:most]  # files are sorted by class
        names = names or [name for name, _ in Counter(row["label"] for row in read).most_common(HEADS)]
        told = {name: re.sub(r"\W+", "_", name) for name in names}
        made = [
            {"text": row["text"]} | {column: "yes" if row["label"] == name else "no" for name, column in told.items()}
            for row in read
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return list(told.values())


def show_heads(arguments: argparse.Namespace, known: list[dict[str, Any]]) -> None:
    """Print the times and how they compare."""
    print(f"| cache | {HEADS} runs, s | {HEADS} heads in one, s | times as fast |\n|---|---|---|---|")
    for line in known:
        print(f"| {line['cache']} | {line['several']} | {line['one']} | {line['several'] / line['one']:.1f} |")


PARTS = {"together": (together, show_together), "matrix": (matrix, show_matrix), "heads": (heads, show_heads)}

if __name__ == "__main__":
    main()
