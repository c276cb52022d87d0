"""How many wrong labels `nlp-transfer check` finds among training rows whose labels are changed at random.

    python recipes/benchmarks/checking.py DATA_FOLDER [--datasets trec sst2 ...] [--seeds 0 1 2] [--rows 3000]
        [--wrong 0.05]

DATA_FOLDER has one folder per data set with train, validation and test files. Training rows are drawn by the seed; a
share of them gets another label, each other label with the same probability. Columns: "reported", the share of all
training rows that are reported before and after the change; "recall", the share of the changed rows that are reported;
"precision", the share of reported rows that were changed (label errors that the data set already has count as
mistakes); "average precision" with the most certain rows first. Compared with, given the same probabilities:
cleanlab's find_label_issues with default settings, and all rows whose most probable label is another one. Means over
the seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.strategies import draw_splits, make_settings
from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.command import data_parser
from recipes.benchmarks.timing.tables import markdown_header, markdown_row

SINGLE = ("trec", "cr", "tweet_emotion", "sst2", "banking77")
Reported = tuple[np.ndarray, np.ndarray]  # indices of rows, and how certain it is that their labels are wrong


def main(argv: list[str] | None = None) -> None:
    """Measure, and print the table as Markdown."""
    parser = data_parser(__doc__)
    parser.add_argument("--datasets", nargs="+", default=SINGLE, choices=SINGLE)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=3000, help="training rows, drawn by the seed")
    parser.add_argument("--wrong", type=float, default=0.05, help="share of labels that are changed")
    arguments = parser.parse_args(argv)
    peer = importlib.util.find_spec("cleanlab") is not None
    print(machine.heading())
    print(f"{arguments.rows:,} training rows, {arguments.wrong:.0%} changed, seeds {arguments.seeds}", end="")
    print("\n" if peer else "; cleanlab is not installed\n")
    columns = ["data set", "method", "reported before → after", "recall", "precision", "average precision"]
    print(markdown_header(columns))
    for dataset in arguments.datasets:
        runs = [measure(dataset, seed, arguments, peer) for seed in arguments.seeds]
        for method in runs[0]:
            before, after, *quality = np.mean([run[method] for run in runs], axis=0)
            cells = [f"{before:.3f} → {after:.3f}", *(f"{value:.3f}" for value in quality)]
            print(markdown_row([dataset, method, *cells]), flush=True)


def measure(dataset: str, seed: int, arguments: argparse.Namespace, peer: bool) -> dict[str, tuple[float, ...]]:
    """Return, by method, the shares reported before and after, recall, precision and average precision."""
    from sklearn.metrics import average_precision_score

    from nlp_transfer.data.corpus import load_corpus
    from nlp_transfer.running.preparation import prepare

    with tempfile.TemporaryDirectory() as scratch:
        draw_splits(arguments.data / dataset, Path(scratch), rows=arguments.rows, seed=seed)
        settings = make_settings(dataset, "probe", seed, Path(scratch))
        corpus = load_corpus(settings.data, seed=seed)
        prepared = prepare(settings, corpus, Path(scratch) / "runs")
        train, labels = corpus.splits["train"], len(corpus.task.labels)
        before = reported_rows(prepared, peer)
        rng = np.random.default_rng(seed)
        wrong = rng.permutation(len(train))[: round(arguments.wrong * len(train))]
        changed = train.targets.copy()
        changed[wrong] = (changed[wrong] + rng.integers(1, labels, len(wrong))) % labels
        corpus.splits["train"] = dataclasses.replace(train, targets=changed)
        after = reported_rows(prepared, peer)
    is_wrong = changed != train.targets
    figures = {}
    for method, (rows, certainty) in after.items():
        scores = np.full(len(train), certainty.min(initial=0) - 1)  # rows that are not reported come last
        scores[rows] = certainty
        found = float(is_wrong[rows].sum())
        figures[method] = (
            len(before[method][0]) / len(train),
            len(rows) / len(train),
            found / is_wrong.sum(),
            found / max(1, len(rows)),
            float(average_precision_score(is_wrong, scores)),
        )
    return figures


def reported_rows(prepared: Any, peer: bool) -> dict[str, Reported]:
    """Return, by method, the training rows whose labels it reports as wrong."""
    from nlp_transfer.inspection.label_errors import doubts, out_of_fold

    ours = [doubt for doubt in doubts(prepared)[0] if doubt.place[0] == "train"]
    rows, probabilities = (by_split["train"] for by_split in out_of_fold(prepared))
    labels = prepared.corpus.splits["train"].targets[rows]
    of_label = probabilities[np.arange(len(rows)), labels]
    other = np.flatnonzero(probabilities.argmax(1) != labels)
    reported = {
        "nlp_transfer": (
            np.array([doubt.place[1] for doubt in ours], dtype=int),
            -np.array([doubt.probability for doubt in ours]),
        ),
        "another label is more probable": (rows[other], -of_label[other]),
    }
    if peer:
        from cleanlab.filter import find_label_issues

        issues = find_label_issues(labels, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
        reported["cleanlab"] = (rows[issues], -of_label[issues])
    return reported


if __name__ == "__main__":
    main()
