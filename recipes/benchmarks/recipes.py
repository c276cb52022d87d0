"""The shipped recipes on public data: score beside the floor, and CPU time.

    python recipes/benchmarks/recipes.py DATA_FOLDER [--recipes intent topic ...] [--results recipes.jsonl]

Each recipe runs as a person would run it, in a process of its own. Large data sets are cut to a number of training rows
that a laptop trains in minutes; the table says to how many. The time is that of the processor, which does not grow when
others are at work on the machine; with OMP_NUM_THREADS=1 it is what one core takes. Results are appended at once, and
what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.timing.kept import Kept

# recipe -> (data set, further words)
RECIPES: dict[str, tuple[str, list[str]]] = {
    "few_labels": ("trec", ["data.per_class=8"]),
    "contrast": ("trec", ["data.per_class=8"]),
    "topic": ("newsgroups20", ["data.train_limit=2000"]),
    "long_documents": ("hyperpartisan", []),
    "sentiment": ("sst2", ["data.train_limit=2000"]),
    "intent": ("banking77", ["data.train_limit=2000", "data.unseen=ignore"]),
    "lora": ("tweet_emotion", ["data.train_limit=1000"]),
    "ordinal": (
        "sst5",
        ["data.train_limit=2000", "data.order=[very negative,negative,neutral,positive,very positive]"],
    ),
    "pairs": ("mrpc", ["data.train_limit=1000"]),
    "regression": ("sick", ["data.train_limit=1000", "data.columns.label=score"]),
    "multi_label": ("goemotions", ["data.train_limit=2000"]),
}


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--results", type=Path, default=Path("recipes.jsonl"))
    arguments = parser.parse_args()
    kept = Kept(arguments.results)
    wanted = [{"recipe": recipe, "command": command_of(recipe)} for recipe in arguments.recipes]
    for asked in kept.missing(wanted):
        kept.add(measure(asked["recipe"], arguments.data))
    show(kept.of(wanted))


def command_of(recipe: str) -> str:
    """Return what a person would type beside the data set."""
    dataset, words = RECIPES[recipe]
    return shlex.join(["nlp-transfer", "adapt", recipe, f"data.path={dataset}", *words])


def measure(recipe: str, data: Path) -> dict[str, Any]:
    """Return one row of results."""
    dataset, words = RECIPES[recipe]
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "nlp_transfer", "adapt", recipe, f"data.path={data / dataset}", *words]
        before = _cpu_seconds()
        done = subprocess.run([*command, f"output={output}"], stdout=subprocess.PIPE, text=True, check=True)
        seconds = _cpu_seconds() - before
    report = json.loads(done.stdout.splitlines()[-1])["report"]
    figures = {row["name"]: row["intervals"][report["metric"]]["value"] for row in report["rows"]}
    row = {
        "recipe": recipe,
        "command": command_of(recipe),
        "metric": report["metric"],
        "model": round(figures["model"], 4),
        "floor": round(figures[report["comparison"]["floor"]], 4),
        "verdict": report["verdict"],
        "cpu_seconds": round(seconds),
    }
    print(json.dumps(row), flush=True)
    return row


def _cpu_seconds() -> float:
    """Return the processor time of the processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def show(rows: list[dict[str, Any]]) -> None:
    """Print a Markdown table."""
    print("\n| command | metric on the test rows | recipe | best floor | CPU time |\n|---|---|---|---|---|")
    for row in rows:
        minutes = f"{row['cpu_seconds'] // 60} min {row['cpu_seconds'] % 60} s"
        print(f"| `{row['command']}` | {row['metric']} | {row['model']:.3f} | {row['floor']:.3f} | {minutes} |")


if __name__ == "__main__":
    main()
