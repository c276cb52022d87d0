"""The shipped recipes on public data: test score, best baseline and processor time.

    python recipes/benchmarks/recipes.py DATA_FOLDER [--recipes intent topic ...] [--results recipes.jsonl]

Each recipe is run by the command line in a process of its own. Large data sets are cut to a number of training rows
that a laptop trains in minutes; the table's commands show it. The time is processor time, which other work on the
machine changes little; with OMP_NUM_THREADS=1 it is the time of one core. The output is one Markdown table. Each
measurement is appended to --results at once and not repeated.
"""

from __future__ import annotations

import json
import resource
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.timing.command import data_parser
from recipes.benchmarks.timing.results import ResultsFile
from recipes.benchmarks.timing.tables import markdown_header

# recipe -> (data set, further settings)
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


def main(argv: list[str] | None = None) -> None:
    """Measure what the results file lacks, and print the table as Markdown."""
    parser = data_parser(__doc__)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--results", type=Path, default=Path("recipes.jsonl"))
    arguments = parser.parse_args(argv)
    results = ResultsFile(arguments.results)
    jobs = [{"recipe": recipe, "command": display_command(recipe)} for recipe in arguments.recipes]
    for job in results.missing(jobs):
        results.add(measure(job["recipe"], arguments.data))
    show(results.select(jobs))


def display_command(recipe: str) -> str:
    """Return the command that runs a recipe, with the data set's name instead of its path."""
    dataset, words = RECIPES[recipe]
    return shlex.join(["nlp-transfer", "adapt", recipe, f"data.path={dataset}", *words])


def measure(recipe: str, data: Path) -> dict[str, Any]:
    """Run a recipe; return its scores and processor time."""
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
        "command": display_command(recipe),
        "metric": report["metric"],
        "model": round(figures["model"], 4),
        "floor": round(figures[report["comparison"]["floor"]], 4),
        "verdict": report["verdict"],
        "cpu_seconds": round(seconds),
    }
    print(json.dumps(row), flush=True)
    return row


def _cpu_seconds() -> float:
    """Return the processor time of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def show(rows: list[dict[str, Any]]) -> None:
    """Print a Markdown table."""
    columns = ["command", "metric on the test rows", "recipe", "best baseline", "CPU time"]
    print("\n" + markdown_header(columns))
    for row in rows:
        minutes = f"{row['cpu_seconds'] // 60} min {row['cpu_seconds'] % 60} s"
        print(f"| `{row['command']}` | {row['metric']} | {row['model']:.3f} | {row['floor']:.3f} | {minutes} |")


if __name__ == "__main__":
    main()
