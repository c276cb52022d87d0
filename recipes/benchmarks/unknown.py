"""How well unknown texts are told: every score beside the one that a run chooses without having seen any.

    python recipes/benchmarks/unknown.py DATA_FOLDER [--cases clinc_oos:oos banking77 trec ...] [--per-class 30]
        [--seeds 0] [--results FILE]

DATA_FOLDER holds one folder a data set with train, validation and test files. A case is a data set and the label of its
out-of-scope rows, or a data set alone: a fifth of its labels, drawn by the seed, are unknown then. No row with an
unknown label is in train or validation; those of test are what must be told. Probes on MiniLM. "rehearsed" is the mean
AUROC with known classes hidden, by which a run chooses; AUROC, AUPR and FPR95 (known texts called unknown where 95 % of
the unknown are found) are of test; "right at 5 %": known rows that are taken for known and labelled right where 5 % of
the validation rows are called unknown, "found": unknown rows that are called so then. Results are appended to a
JSON-lines file at once and not computed again.
"""

from __future__ import annotations

import argparse
import csv
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
from recipes.benchmarks.timing.kept import Kept

CHOSEN = "chosen"
CASES = ("clinc_oos:oos", "banking77", "trec")
WORDS = ["data=files", "data.unseen=ignore", "strategy=probe"]
RATE = 0.05
FIGURES = ("rehearsed", "auroc", "aupr", "fpr95", "right", "found")


def main(words: list[str] | None = None) -> None:
    """Run, and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--per-class", type=int, default=30, help="training rows a label")
    parser.add_argument("--results", type=Path, help="JSON lines of figures")
    arguments = parser.parse_args(words)
    print(machine.heading())
    print(f"{arguments.per_class:,} training rows a label, seeds {arguments.seeds}\n")
    print("| case | score | rehearsed | AUROC | AUPR | FPR95 | right at 5 % | found at 5 % |")
    print("|---" * 8 + "|")
    lost = defaultdict(list)
    for case in arguments.cases:
        of = [measured(case, seed, arguments) for seed in arguments.seeds]
        chosen = [each["chosen"] for each in of]
        for name in of[0]["scores"]:
            cells = (f"{np.mean([each['scores'][name][figure] for each in of]):.3f}" for figure in FIGURES)
            mark = f" (chosen {chosen.count(name)} of {len(of)})" if name in chosen else ""
            print(f"| {case} | {name}{mark} | {' | '.join(cells)} |", flush=True)
        for each in of:
            areas = {name: part["auroc"] for name, part in each["scores"].items()}
            for name in (CHOSEN, *areas):
                lost[name].append(max(areas.values()) - areas[each["chosen"] if name == CHOSEN else name])
    print("\nAUROC that is lost to the best score in hindsight:\n\n| score | mean | most |\n|---|---|---|")
    for name, values in lost.items():
        print(f"| {name} | {np.mean(values):.3f} | {max(values):.3f} |")


def measured(case: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the score that is chosen and the figures of every one, measured now or before."""
    asked = {"case": case, "seed": seed, "per_class": arguments.per_class}
    kept = Kept(arguments.results)
    return kept.find(asked) or kept.add(asked | measure(case, seed, arguments))


def measure(case: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Adapt a probe to the known labels; return the score that is chosen and the figures of every one."""
    from nlp_transfer.config import compose
    from nlp_transfer.data.corpus import load_corpus
    from nlp_transfer.evaluation.hidden_classes import choose_detector, fit_detector, hidden_class_aurocs
    from nlp_transfer.evaluation.unknown import DETECTORS
    from nlp_transfer.running.head import fold_calibration, solve_head
    from nlp_transfer.running.preparation import prepare

    with tempfile.TemporaryDirectory() as scratch:
        divide(arguments.data, case, seed, Path(scratch))
        words = [f"data.path={scratch}", f"data.per_class={arguments.per_class}", f"seed={seed}"]
        settings = compose(None, [*WORDS, *words])
        corpus = load_corpus(settings.data, seed=seed)
        prepared = prepare(settings, corpus, Path(scratch) / "run")
        solve_head(prepared)
        fold_calibration(prepared, prepared.outputs("validation"))
    train, held, test = (prepared.features(split) for split in ("train", "validation", "test"))
    logits, strange = prepared.outputs("test"), prepared.logits_and_features(corpus.foreign["test"])
    classes, truth = (corpus.splits[split].targets for split in ("train", "validation"))
    labels = len(corpus.task.labels)
    figures = hidden_class_aurocs(train, classes, held, truth, labels=labels, seed=seed)
    right = logits.argmax(1) == corpus.splits["test"].targets
    found = {}
    for name in DETECTORS:
        detector = fit_detector(name, train, classes, labels=labels, seed=seed)
        limit = detector.scores(prepared.outputs("validation"), held)
        known, unknown = detector.scores(logits, test), detector.scores(*strange)
        found[name] = {"rehearsed": float(np.mean(figures[name]))} | figures_of(known, unknown, right, limit)
    return {"chosen": choose_detector(figures, train.shape[1]), "scores": found}


def figures_of(known: np.ndarray, unknown: np.ndarray, right: np.ndarray, held: np.ndarray) -> dict[str, float]:
    """Return the figures of scores of known test rows, unknown ones and validation rows."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    from nlp_transfer.evaluation.calibration_scores import CalibrationScores

    truth, scores = np.repeat([0, 1], [len(known), len(unknown)]), np.concatenate([known, unknown])
    limit = CalibrationScores.of(held).limit(1 - RATE)
    return {
        "auroc": float(roc_auc_score(truth, scores)),
        "aupr": float(average_precision_score(truth, scores)),
        "fpr95": float((known >= np.quantile(unknown, 0.05)).mean()),
        "right": float((right & (known <= limit)).mean()),
        "found": float((unknown > limit).mean()),
    }


def divide(data: Path, case: str, seed: int, folder: Path, *, hidden: float = 0.2) -> None:
    """Write train and validation without the rows of unknown labels, and test with them.

    Args:
        data: folder of data sets.
        case: one of them, and the unknown label, if that is one of its own.
        seed: of the labels that are unknown otherwise.
        folder: to write.
        hidden: the share of labels that are unknown then.
    """
    name, _, label = case.partition(":")
    tables: dict[str, list[dict[str, Any]]] = {}
    for split in ("train", "validation", "test"):
        with (data / name / f"{split}.csv").open(encoding="utf-8", newline="") as lines:
            tables[split] = list(csv.DictReader(lines))
    labels = sorted({row["label"] for row in tables["train"]})
    unknown = {label} if label else set(random.Random(seed).sample(labels, math.ceil(hidden * len(labels) - 0.99)))
    # Out-of-scope rows are no unknown class where other labels are.
    known = [each for each in labels if each not in unknown | {"oos"}]
    for split, rows in tables.items():
        wanted = {*known, *unknown} if split == "test" else set(known)
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as out:
            writer = csv.DictWriter(out, ["text", "label"], extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(row for row in rows if row["label"] in wanted)


if __name__ == "__main__":
    main()
