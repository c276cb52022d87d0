"""How many wrong labels `nlp-transfer check` finds: labels of training rows are made wrong by chance, then looked for.

    python recipes/benchmarks/checking.py DATA_FOLDER [--datasets trec sst2 ...] [--seeds 0 1 2] [--rows 3000]
        [--wrong 0.05]

DATA_FOLDER holds one folder a data set with train, validation and test files. Training rows are drawn by the seed, and
a share of them is given another label, each as likely. "told" is the share of all training rows that are told of,
before and after; "found" the share of the labels that were made wrong among them; "right" the share of what is told of
that was made wrong, where errors that the data set has itself count as mistakes; "ranked" the average precision with
the most certain first. Beside it, given the same probabilities: cleanlab's find_label_issues as it comes, and
everything whose most probable label is another one. Means over seeds.
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

from recipes.benchmarks.strategies import draw, settings_of
from recipes.benchmarks.timing import machine

SINGLE = ("trec", "cr", "tweet_emotion", "sst2", "banking77")
Told = tuple[np.ndarray, np.ndarray]  # rows that are told of, and how certain that is


def main(words: list[str] | None = None) -> None:
    """Run, and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--datasets", nargs="+", default=SINGLE, choices=SINGLE)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=3000, help="training rows, drawn by the seed")
    parser.add_argument("--wrong", type=float, default=0.05, help="share of labels that are made wrong")
    arguments = parser.parse_args(words)
    peer = importlib.util.find_spec("cleanlab") is not None
    print(machine.heading())
    print(f"{arguments.rows:,} training rows, {arguments.wrong:.0%} made wrong, seeds {arguments.seeds}", end="")
    print("\n" if peer else "; cleanlab is not installed\n")
    print("| data set | method | told before → after | found | right | ranked |\n|---|---|---|---|---|---|")
    for dataset in arguments.datasets:
        runs = [measure(dataset, seed, arguments, peer) for seed in arguments.seeds]
        for method in runs[0]:
            before, after, found, right, ranked = np.mean([run[method] for run in runs], axis=0)
            figures = f"{before:.3f} → {after:.3f} | {found:.3f} | {right:.3f} | {ranked:.3f}"
            print(f"| {dataset} | {method} | {figures} |", flush=True)


def measure(dataset: str, seed: int, arguments: argparse.Namespace, peer: bool) -> dict[str, tuple[float, ...]]:
    """Return, by method, what is told of before and after, and how good that is."""
    from sklearn.metrics import average_precision_score

    from nlp_transfer.data.corpus import load_corpus
    from nlp_transfer.running.preparation import prepare

    with tempfile.TemporaryDirectory() as scratch:
        draw(arguments.data / dataset, Path(scratch), rows=arguments.rows, seed=seed)
        settings = settings_of(dataset, "probe", seed, Path(scratch))
        corpus = load_corpus(settings.data, seed=seed)
        prepared = prepare(settings, corpus, Path(scratch) / "runs")
        train, labels = corpus.splits["train"], len(corpus.task.labels)
        before = told_of(prepared, peer)
        right, draws = train.targets, np.random.default_rng(seed)
        wrong = draws.permutation(len(train))[: round(arguments.wrong * len(train))]
        planted = right.copy()
        planted[wrong] = (right[wrong] + draws.integers(1, labels, len(wrong))) % labels
        corpus.splits["train"] = dataclasses.replace(train, targets=planted)
        after = told_of(prepared, peer)
    is_wrong = planted != right
    figures = {}
    for method, (rows, certain) in after.items():
        scores = np.full(len(train), -np.inf)
        scores[rows] = certain
        ranked = average_precision_score(is_wrong, np.where(np.isfinite(scores), scores, certain.min(initial=0) - 1))
        hit = float(is_wrong[rows].sum())
        figures[method] = (
            len(before[method][0]) / len(train),
            len(rows) / len(train),
            hit / is_wrong.sum(),
            hit / max(1, len(rows)),
            float(ranked),
        )
    return figures


def told_of(prepared: Any, peer: bool) -> dict[str, Told]:
    """Return the training rows that each method tells of."""
    from nlp_transfer.inspection.label_errors import doubts, out_of_fold

    ours = [doubt for doubt in doubts(prepared)[0] if doubt.place[0] == "train"]
    rows, likely = (each["train"] for each in out_of_fold(prepared))
    given = prepared.corpus.splits["train"].targets[rows]
    own = likely[np.arange(len(rows)), given]
    other = np.flatnonzero(likely.argmax(1) != given)
    told = {
        "nlp_transfer": (
            np.array([doubt.place[1] for doubt in ours], dtype=int),
            -np.array([doubt.probability for doubt in ours]),
        ),
        "another is likelier": (rows[other], -own[other]),
    }
    if peer:
        from cleanlab.filter import find_label_issues

        found = find_label_issues(given, likely, return_indices_ranked_by="self_confidence", n_jobs=1)
        told["cleanlab"] = (rows[found], -own[found])
    return told


if __name__ == "__main__":
    main()
