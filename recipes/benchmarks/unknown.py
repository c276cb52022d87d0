"""Detection of texts that belong to no known class: every detector, and the one that a run chooses without seeing any.

    python recipes/benchmarks/unknown.py DATA_FOLDER [--cases clinc_oos:oos banking77 trec ...] [--per-class 30]
        [--seeds 0] [--results FILE]

DATA_FOLDER has one folder per data set with train, validation and test files. A case is a data set and the label of its
out-of-scope rows, or a data set alone: then a fifth of its labels, drawn by the seed, are unknown. Rows with unknown
labels are removed from train and validation; those of the test split are to be detected. The models are probes on
MiniLM. Columns: "rehearsed", the mean AUROC on validation rows with known classes hidden, by which a run chooses the
detector; AUROC, AUPR and FPR95 (share of known texts that are rejected at the threshold that rejects 95 % of the
unknown ones) on the test rows; "right at 5 %", the share of known test rows that are accepted and labelled correctly at
the threshold that rejects 5 % of the validation rows; "found at 5 %", the share of unknown test rows rejected there. A
second table has the AUROC that each detector, and the choice, loses to the best detector in hindsight.

Each measurement is appended to --results at once and not repeated.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.command import data_parser
from recipes.benchmarks.timing.results import ResultsFile
from recipes.benchmarks.timing.rows import read_rows, write_rows
from recipes.benchmarks.timing.tables import markdown_header, markdown_row

CHOSEN = "chosen"
CASES = ("clinc_oos:oos", "banking77", "trec")
SHARED_WORDS = ["data=files", "data.unseen=ignore", "strategy=probe"]
REJECTED = 0.05  # share of the validation rows
FIGURES = ("rehearsed", "auroc", "aupr", "fpr95", "right", "found")


def main(argv: list[str] | None = None) -> None:
    """Measure, and print the table as Markdown."""
    parser = data_parser(__doc__)
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--per-class", type=int, default=30, help="training rows per label")
    parser.add_argument("--results", type=Path, help="JSON lines of figures")
    arguments = parser.parse_args(argv)
    print(machine.heading())
    print(f"{arguments.per_class:,} training rows per label, seeds {arguments.seeds}\n")
    columns = ["case", "detector", "rehearsed", "AUROC", "AUPR", "FPR95", "right at 5 %", "found at 5 %"]
    print(markdown_header(columns))
    results, regrets = ResultsFile(arguments.results), defaultdict(list)
    for case in arguments.cases:
        lines = []
        for seed in arguments.seeds:
            job = {"case": case, "seed": seed, "per_class": arguments.per_class}
            lines.append(results.find(job) or results.add(job | measure(case, seed, arguments)))
        chosen = [line["chosen"] for line in lines]
        for name in lines[0]["scores"]:
            means = (np.mean([line["scores"][name][figure] for line in lines]) for figure in FIGURES)
            mark = f" (chosen {chosen.count(name)} of {len(lines)})" if name in chosen else ""
            print(markdown_row([case, f"{name}{mark}", *(f"{mean:.3f}" for mean in means)]), flush=True)
        for line in lines:
            aurocs = {name: figures["auroc"] for name, figures in line["scores"].items()}
            for name in (CHOSEN, *aurocs):
                regrets[name].append(max(aurocs.values()) - aurocs[line["chosen"] if name == CHOSEN else name])
    print(f"\nAUROC lost to the best detector in hindsight:\n\n{markdown_header(['detector', 'mean', 'maximum'])}")
    for name, values in regrets.items():
        print(f"| {name} | {np.mean(values):.3f} | {max(values):.3f} |")


def measure(case: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Adapt a probe to the known labels; return the detector that it chooses, and the figures of every detector."""
    from nlp_transfer.config import compose
    from nlp_transfer.data.corpus import load_corpus
    from nlp_transfer.evaluation.hidden_classes import choose_detector, fit_detector, hidden_class_aurocs
    from nlp_transfer.evaluation.unknown import DETECTORS
    from nlp_transfer.running.head import fold_calibration, solve_head
    from nlp_transfer.running.preparation import prepare

    with tempfile.TemporaryDirectory() as scratch:
        write_splits(arguments.data, case, seed, Path(scratch))
        words = [f"data.path={scratch}", f"data.per_class={arguments.per_class}", f"seed={seed}"]
        settings = compose(None, [*SHARED_WORDS, *words])
        corpus = load_corpus(settings.data, seed=seed)
        prepared = prepare(settings, corpus, Path(scratch) / "run")
        solve_head(prepared)
        fold_calibration(prepared, prepared.outputs("validation"))
    train, validation, test = (prepared.features(split) for split in ("train", "validation", "test"))
    logits, unknown_rows = prepared.outputs("test"), prepared.logits_and_features(corpus.foreign["test"])
    train_classes, validation_classes = (corpus.splits[split].targets for split in ("train", "validation"))
    labels = len(corpus.task.labels)
    rehearsed = hidden_class_aurocs(train, train_classes, validation, validation_classes, labels=labels, seed=seed)
    is_correct = logits.argmax(1) == corpus.splits["test"].targets
    scores = {}
    for name in DETECTORS:
        detector = fit_detector(name, train, train_classes, labels=labels, seed=seed)
        figures = detection_figures(
            known=detector.scores(logits, test),
            unknown=detector.scores(*unknown_rows),
            is_correct=is_correct,
            validation=detector.scores(prepared.outputs("validation"), validation),
        )
        scores[name] = {"rehearsed": float(np.mean(rehearsed[name]))} | figures
    return {"chosen": choose_detector(rehearsed, train.shape[1]), "scores": scores}


def detection_figures(
    known: np.ndarray, unknown: np.ndarray, is_correct: np.ndarray, validation: np.ndarray
) -> dict[str, float]:
    """Return the test figures of a detector.

    Args:
        known: scores of the known test rows; higher means less familiar.
        unknown: scores of the unknown test rows.
        is_correct: whether the label of each known test row is predicted correctly.
        validation: scores of the validation rows.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    from nlp_transfer.evaluation.calibration_scores import CalibrationScores

    truth, scores = np.repeat([0, 1], [len(known), len(unknown)]), np.concatenate([known, unknown])
    limit = CalibrationScores.of(validation).limit(1 - REJECTED)
    return {
        "auroc": float(roc_auc_score(truth, scores)),
        "aupr": float(average_precision_score(truth, scores)),
        "fpr95": float((known >= np.quantile(unknown, 0.05)).mean()),
        "right": float((is_correct & (known <= limit)).mean()),
        "found": float((unknown > limit).mean()),
    }


def write_splits(data: Path, case: str, seed: int, folder: Path, *, hidden: float = 0.2) -> None:
    """Write train and validation files without the rows of unknown labels, and a test file with them.

    Args:
        data: folder of data sets.
        case: name of a data set, optionally with `:` and the label that is unknown.
        seed: draws the unknown labels where the case names none.
        folder: where the files are written.
        hidden: share of the labels that are drawn as unknown.
    """
    name, _, label = case.partition(":")
    tables = {split: read_rows(data / name / f"{split}.csv") for split in ("train", "validation", "test")}
    labels = sorted({row["label"] for row in tables["train"]})
    unknown = {label} if label else set(random.Random(seed).sample(labels, math.ceil(hidden * len(labels) - 0.99)))
    # Where the unknown labels are drawn, out-of-scope rows are left out.
    known = set(labels) - unknown - {"oos"}
    for split, rows in tables.items():
        kept = known | unknown if split == "test" else known
        write_rows(folder / f"{split}.csv", [row for row in rows if row["label"] in kept])


if __name__ == "__main__":
    main()
