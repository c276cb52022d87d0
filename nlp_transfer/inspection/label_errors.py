"""Likely label errors, found by confident learning with out-of-fold predictions of a probe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from nlp_transfer.data.checks import called
from nlp_transfer.data.finding import Finding, Place
from nlp_transfer.data.task import Task, likeliest
from nlp_transfer.evaluation.decisions import probabilities
from nlp_transfer.running.head import cross_validate
from nlp_transfer.running.prepared import Prepared

_FAR_OUT = 3.0  # interquartile ranges
_MIN_ROWS = 100  # for training the probe
_MIN_KAPPA = 0.4  # agreement up to this is only fair (Landis and Koch 1977, Biometrics 33)


@dataclass(frozen=True)
class Doubt:
    """A likely label error.

    Attributes:
        place: the row.
        given: its label; multi_label: the label that it likely has or lacks wrongly.
        suggested: the probe's label; multi_label: whether the row should have that label.
        probability: of the given label; regression: the share of training rows with errors at least as large.
    """

    place: Place
    given: str
    suggested: str
    probability: float


def doubts(prepared: Prepared) -> tuple[list[Doubt], list[Finding]]:
    """Return the likely label errors, most certain first, and the findings about them.

    Confident learning (Northcutt et al. 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70):
    the probe is confident of a label if its probability reaches the mean over training rows with that label. The number
    of rows where it is confident of another label estimates the number of errors. That many rows are reported: among
    those with another predicted label, the ones whose given label is least probable. The paper reports the confident
    rows themselves, but with many labels, or some easy ones, fewer of these are errors. Training rows are predicted out
    of fold. For regression, residuals are reported that are far out (Tukey 1977, "Exploratory Data Analysis"): more
    than three interquartile ranges beyond the quartiles of the training residuals.

    A probe that agrees too little with the training labels (Cohen's kappa) reports nothing: it is never sure, hence
    confident of everything, and would report its own errors.
    """
    task, splits = prepared.corpus.task, prepared.corpus.splits
    if len(splits["train"]) < _MIN_ROWS:
        return [], []
    predicted_rows, likely = out_of_fold(prepared)
    if not predicted_rows:
        return [], []
    targets = {split: splits[split].targets[rows] for split, rows in predicted_rows.items()}
    if task.problem != "regression":
        kappa = _agreement(task, targets["train"], likely["train"])
        if kappa <= _MIN_KAPPA:
            message = (
                "a probe agrees too little with the labels of training rows that it did not learn from to doubt any "
                f"label (Cohen's kappa {kappa:.2f}; 0 is chance, 1 is always)"
            )
            return [], [Finding("weak_probe", message)]
    doubt_rows = {"multi_label": _doubt_multi_label, "regression": _doubt_numbers}.get(task.problem, _doubt_classes)
    errors = sorted(doubt_rows(task, likely, targets, predicted_rows), key=lambda doubt: doubt.probability)
    return errors, list(_findings(prepared, errors))


Arrays = Mapping[str, np.ndarray]


def out_of_fold(prepared: Prepared) -> tuple[Arrays, Arrays]:
    """Return a probe's predictions for rows that it was not trained on; out of fold for training rows.

    Returns:
        By split: the predicted rows, int64 (rows,), without training rows of weight 0; and their label probabilities,
        float64 (rows, labels). Empty if there are too few rows to hold any out.
    """
    validated = cross_validate(prepared, prepared.features("train"))
    held_out = validated.outputs_held_out()
    if held_out is None:
        return {}, {}
    head = validated.fit()
    others = [split for split in prepared.columns if split != "train"]
    outputs = {"train": held_out} | {split: prepared.features(split) @ head.weight.T + head.bias for split in others}
    rows = {split: np.flatnonzero(np.isfinite(logits).all(1)) for split, logits in outputs.items()}
    task = prepared.corpus.task
    return rows, {split: probabilities(task, logits[rows[split]]) for split, logits in outputs.items()}


def _agreement(task: Task, targets: np.ndarray, likely: np.ndarray) -> float:
    """Return Cohen's kappa of a probe and the labels; multi_label: of binary decisions, pooled over the labels."""
    if task.problem == "multi_label":
        given, predicted = targets >= 0.5, likely >= 0.5
        given_share, predicted_share = given.mean(0), predicted.mean(0)
        chance = float((given_share * predicted_share + (1 - given_share) * (1 - predicted_share)).mean())
    else:
        given, predicted = likeliest(targets), likely.argmax(1)
        shares = [np.bincount(each, minlength=likely.shape[1]) / len(each) for each in (given, predicted)]
        chance = float(shares[0] @ shares[1])
    return float(((given == predicted).mean() - chance) / (1 - chance)) if chance < 1 else 0.0


def _doubt_classes(task: Task, likely: Arrays, targets: Arrays, rows: Arrays) -> Iterator[Doubt]:
    given = {split: likeliest(each) for split, each in targets.items()}
    # Thresholds of confidence; unreachable for labels without training rows, and at least chance for those that are too
    # rare to be learned.
    thresholds = np.full(len(task.labels), 2.0)
    for label in np.unique(given["train"]):
        thresholds[label] = max(likely["train"][given["train"] == label, label].mean(), 1 / len(task.labels))
    for split, shares in likely.items():
        of_given = shares[np.arange(len(shares)), given[split]]
        confident = np.where(shares >= thresholds, shares, 0.0)
        count = int(((confident.max(1) > 0) & (confident.argmax(1) != given[split])).sum())
        differing = np.flatnonzero(shares.argmax(1) != given[split])
        for row in differing[np.argsort(of_given[differing], kind="stable")][:count]:
            yield Doubt(
                (split, int(rows[split][row])),
                task.labels[given[split][row]],
                task.labels[shares[row].argmax()],
                float(of_given[row]),
            )


def _doubt_multi_label(task: Task, likely: Arrays, targets: Arrays, rows: Arrays) -> Iterator[Doubt]:
    """Doubt each label by itself, and report the most doubtful one of each row."""
    given = {split: each >= 0.5 for split, each in targets.items()}
    thresholds = np.full((2, len(task.labels)), 2.0)  # of confidence that a label is absent, and present
    for side, shares in enumerate((1 - likely["train"], likely["train"])):
        for label, has in enumerate((given["train"] == bool(side)).T):
            if has.any():
                thresholds[side, label] = shares[has, label].mean()
    for split, shares in likely.items():
        of_given = np.where(given[split], shares, 1 - shares)
        doubted = (1 - of_given > of_given) & (1 - of_given >= np.where(given[split], thresholds[0], thresholds[1]))
        doubt = np.where(doubted, of_given, 1.0)
        for row in np.flatnonzero(doubted.any(1)):
            label = int(doubt[row].argmin())
            has = bool(given[split][row, label])
            name = task.labels[label]
            yield Doubt(
                (split, int(rows[split][row])),
                name if has else f"not {name}",
                f"not {name}" if has else name,
                float(of_given[row, label]),
            )


def _doubt_numbers(task: Task, likely: Arrays, targets: Arrays, rows: Arrays) -> Iterator[Doubt]:
    residuals = {split: targets[split] - predicted[:, 0] for split, predicted in likely.items()}
    low, high = np.quantile(residuals["train"], [0.25, 0.75])
    far = _FAR_OUT * (high - low)
    sizes = np.sort(np.abs(residuals["train"]))
    for split, residual in residuals.items():
        for row in np.flatnonzero((residual < low - far) | (residual > high + far)):
            as_large = len(sizes) - np.searchsorted(sizes, abs(residual[row]))
            given, suggested = f"{targets[split][row]:.4g}", f"{likely[split][row, 0]:.4g}"
            yield Doubt((split, int(rows[split][row])), given, suggested, float(as_large / len(sizes)))


def _findings(prepared: Prepared, errors: list[Doubt]) -> Iterator[Finding]:
    """Return one finding for each split with likely label errors."""
    for split, examples in prepared.corpus.splits.items():
        if places := tuple(doubt.place for doubt in errors if doubt.place[0] == split):
            yield Finding(
                "label_error",
                f"{len(places):,} of {len(examples):,} {called(split)} rows may be mislabelled, or are hard: a probe "
                "that did not learn from them disagrees",
                places,
            )
