"""The verdicts of `nlp-transfer compare` on real data, and whether independent code confirms negative transfer.

    python recipes/benchmarks/comparing.py DATA_FOLDER OUTPUT [--cases trec ...] [--confirm umsab:ar] [--seeds 3]

DATA_FOLDER has one folder per data set with train, validation and test files; a case `name:language` takes the rows of
the data set whose column `lang` is the language. Probe, finetune and lora are compared with the majority class, TF-IDF
and the encoder trained from random weights, at the numbers of labels per class in CASES. The output is one table and
the verdicts per case. Trials, pages (report.html) and recipes are kept in OUTPUT, so an interrupted benchmark can be
continued and a finished one only prints its tables.

The cases of --confirm are also trained on all their rows by other software, and these results are not kept:
transformers' Trainer in its best setting (see strategies.py; three epochs, where ours has two, or 50 steps), and
scikit-learn's logistic regression on word unigrams and bigrams with default settings.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.command import data_parser
from recipes.benchmarks.timing.rows import read_rows, write_rows
from recipes.benchmarks.timing.tables import markdown_header, markdown_row

# case -> settings that differ from those of all cases
CASES: dict[str, dict[str, Any]] = {
    "trec": {"compare.labels": [8, 64]},
    "tweet_emotion": {"compare.labels": [8, 64]},
    "reviews/books": {"compare.labels": [16, 64], "compare.scratch": False, "tokens.max_length": 128},
    "banking77": {"compare.labels": [4, 16]},
    "umsab:ar": {"compare.labels": ["all"], "compare.scratch": False},
}


def main(argv: list[str] | None = None) -> None:
    """Run, and print tables and verdicts as Markdown."""
    parser = data_parser(__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--cases", nargs="+", default=list(CASES))
    parser.add_argument("--confirm", nargs="*", default=[])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args(argv)
    print(machine.heading())
    for case in arguments.cases:
        show(case, compare(case, case_folder(case, arguments), arguments))
    for case in arguments.confirm:
        confirm(case, case_folder(case, arguments), arguments)


def case_folder(case: str, arguments: argparse.Namespace) -> Path:
    """Return the data folder of a case; the folder of a single language is written first."""
    name, _, language = case.partition(":")
    if not language:
        return arguments.data / name
    folder = arguments.output / "rows" / f"{name}-{language}"
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation", "test"):
        rows = read_rows(arguments.data / name / f"{split}.csv")
        write_rows(folder / f"{split}.csv", [row for row in rows if row["lang"] == language])
    return folder


def compare(case: str, folder: Path, arguments: argparse.Namespace) -> Any:
    """Return the outcome of `nlp-transfer compare` on a case."""
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


def show(case: str, outcome: Any) -> None:
    """Print the scores with their intervals as a Markdown table, and the verdicts."""
    label_counts = list(dict.fromkeys(cell.labels for cell in outcome.cells))
    names = list(dict.fromkeys(cell.name for cell in outcome.cells))
    print(f"\n**{case}**, {outcome.metric} on {outcome.rows:,} rows, {len(outcome.seeds)} seeds\n")
    print(markdown_header(["labels", *names]))
    for labels in label_counts:
        figures = [outcome.cell(name, labels).figure for name in names]
        cells = [f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]" for figure in figures]
        print(markdown_row([str(labels), *cells]))
    print()
    for sentence in outcome.verdict:
        print(f"- {sentence}")
    print(flush=True)


def confirm(case: str, folder: Path, arguments: argparse.Namespace) -> None:
    """Print the scores of other software trained on all rows."""
    from nlp_transfer.config import compose
    from nlp_transfer.data.corpus import load_corpus
    from nlp_transfer.evaluation.metrics import DEFAULT_METRIC
    from recipes.benchmarks import strategies

    scores: dict[str, list[float]] = {"transformers' Trainer": [], "scikit-learn": []}
    for seed in range(arguments.seeds):
        words = ["data=files", f"data.path={folder}", "data.empty=drop", f"seed={seed}", "training.epochs=3"]
        settings = compose(None, words)
        corpus = load_corpus(settings.data, seed=seed)
        metric = DEFAULT_METRIC[corpus.task.problem]
        scores["transformers' Trainer"].append(strategies.trainer(settings, corpus, metric))
        scores["scikit-learn"].append(logistic_regression(corpus, metric, seed))
        latest = ", ".join(f"{name} {values[-1]:.3f}" for name, values in scores.items())
        print(f"{case}, seed {seed}: {latest}", flush=True)
    rows = len(corpus.splits["train"])
    means = ", ".join(f"{name} {np.mean(values):.3f} ± {np.std(values):.3f}" for name, values in scores.items())
    print(f"\n**{case}**, other software on all {rows:,} rows, {metric}, {arguments.seeds} seeds: {means}")


def logistic_regression(corpus: Any, metric: str, seed: int) -> float:
    """Return the test score of scikit-learn's logistic regression on TF-IDF of unigrams and bigrams."""
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
