"""What `nlp-transfer compare` says of real data, and whether others' code agrees where transfer hurts.

    python recipes/benchmarks/comparing.py DATA_FOLDER OUTPUT [--cases trec ...] [--confirm umsab:ar] [--seeds 3]

DATA_FOLDER holds one folder a data set with train, validation and test files; a case `name:language` has the rows of
that data set whose column `lang` is the language. Probe, finetune and lora are compared, beside majority, TF-IDF and
the encoder from random weights, with the numbers of labels a class of CASES. Trials, pages (report.html) and recipes
stay in OUTPUT, so that an interrupted benchmark goes on, and one that is done shows its table again.

Cases of --confirm are trained once more by code that is not ours, on all their rows, and not kept: transformers'
Trainer at its best setting (see strategies.py; three epochs, ours has two, or 50 steps) beside words, pairs of words
and logistic regression of scikit-learn as they come.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.timing import machine

# name -> words of the command line
CASES: dict[str, dict[str, Any]] = {
    "trec": {"compare.labels": [8, 64]},
    "tweet_emotion": {"compare.labels": [8, 64]},
    "reviews/books": {"compare.labels": [16, 64], "compare.scratch": False, "tokens.max_length": 128},
    "banking77": {"compare.labels": [4, 16]},
    "umsab:ar": {"compare.labels": ["all"], "compare.scratch": False},
}


def main(words: list[str] | None = None) -> None:
    """Run, and print tables and verdicts as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--cases", nargs="+", default=list(CASES))
    parser.add_argument("--confirm", nargs="*", default=[])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args(words)
    print(machine.heading())
    for case in arguments.cases:
        tell(case, compared(case, rows_of(case, arguments), arguments))
    for case in arguments.confirm:
        confirm(case, rows_of(case, arguments), arguments)


def rows_of(case: str, arguments: argparse.Namespace) -> Path:
    """Return the folder of a case; of one language it is written first."""
    name, _, language = case.partition(":")
    if not language:
        return arguments.data / name
    folder = arguments.output / "rows" / f"{name}-{language}"
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation", "test"):
        with (arguments.data / name / f"{split}.csv").open(encoding="utf-8", newline="") as lines:
            rows = [row for row in csv.DictReader(lines) if row["lang"] == language]
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as out:
            writer = csv.DictWriter(out, ["text", "label"], extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return folder


def compared(case: str, folder: Path, arguments: argparse.Namespace) -> Any:
    """Return the outcome of a comparison."""
    import nlp_transfer

    return nlp_transfer.compare(
        None,
        {
            "data": "files",
            "data.path": str(folder),
            "data.empty": "drop",
            "output": str(arguments.output),
            "name": case.replace("/", "-").replace(":", "-"),
            "compare.candidates": ["probe", "finetune", "lora"],
            "compare.seeds": arguments.seeds,
            **CASES.get(case, {}),
        },
    )


def tell(case: str, outcome: Any) -> None:
    """Print what came of it."""
    numbers = list(dict.fromkeys(cell.labels for cell in outcome.cells))
    names = list(dict.fromkeys(cell.name for cell in outcome.cells))
    print(f"\n**{case}**, {outcome.metric} on {outcome.rows:,} rows, {len(outcome.seeds)} seeds\n")
    print(f"| labels | {' | '.join(names)} |")
    print("|---" * (1 + len(names)) + "|")
    for number in numbers:
        figures = [outcome.cell(name, number).figure for name in names]
        shown = [f"{each.value:.3f} [{each.low:.3f}, {each.high:.3f}]" for each in figures]
        print(f"| {number} | {' | '.join(shown)} |")
    print()
    for sentence in outcome.verdict:
        print(f"- {sentence}")
    print(flush=True)


def confirm(case: str, folder: Path, arguments: argparse.Namespace) -> None:
    """Print what others' code makes of all rows."""
    from nlp_transfer.config import compose
    from nlp_transfer.data.corpus import load_corpus
    from nlp_transfer.evaluation.metrics import DEFAULT_METRIC
    from recipes.benchmarks import strategies

    found: dict[str, list[float]] = {"transformers' Trainer": [], "scikit-learn": []}
    for seed in range(arguments.seeds):
        words = ["data=files", f"data.path={folder}", "data.empty=drop", f"seed={seed}", "training.epochs=3"]
        settings = compose(None, words)
        corpus = load_corpus(settings.data, seed=seed)
        metric = DEFAULT_METRIC[corpus.task.problem]
        found["transformers' Trainer"].append(strategies.trainer(settings, corpus, metric))
        found["scikit-learn"].append(words_alone(corpus, metric, seed))
        now = ", ".join(f"{name} {each[-1]:.3f}" for name, each in found.items())
        print(f"{case}, seed {seed}: {now}", flush=True)
    rows = len(corpus.splits["train"])
    shown = ", ".join(f"{name} {np.mean(each):.3f} ± {np.std(each):.3f}" for name, each in found.items())
    print(f"\n**{case}**, others' code on all {rows:,} rows, {metric}, {arguments.seeds} seeds: {shown}")


def words_alone(corpus: Any, metric: str, seed: int) -> float:
    """Return what words, pairs of words and a logistic regression of scikit-learn come to on test."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    from nlp_transfer.evaluation.metrics import compute

    train, test = corpus.splits["train"], corpus.splits["test"]
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000, random_state=seed))
    logits = model.fit(train.texts, train.targets).decision_function(test.texts)
    logits = logits if logits.ndim == 2 else np.stack([np.zeros(len(logits)), logits], axis=1)
    return compute(corpus.task, logits, test.targets)[metric]


if __name__ == "__main__":
    main()
