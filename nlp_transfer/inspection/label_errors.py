"""Labels that are likely wrong: a probe that did not learn from a row gives it another one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from nlp_transfer.data.checks import called
from nlp_transfer.data.finding import Finding, Place
from nlp_transfer.data.task import Task, likeliest
from nlp_transfer.evaluation.decisions import probabilities
from nlp_transfer.running.head import validate
from nlp_transfer.running.preparation import Prepared

_FAR_OUT = 3.0
_FEWEST = 100  # training rows that teach a probe to doubt
_AGREES = 0.4  # kappa, up to which raters agree fairly only (Landis and Koch 1977, Biometrics 33)


@dataclass(frozen=True)
class Doubt:
    """A row whose label a probe that did not learn from it takes for another.

    Attributes:
        place: the row.
        given: its label; multi_label: the one that it has or lacks wrongly.
        suggested: the label that the probe gives it; multi_label: whether it should have that label.
        probability: of what is given; of a number the share of training rows that lie as far off.
    """

    place: Place
    given: str
    suggested: str
    probability: float


def doubts(prepared: Prepared) -> tuple[list[Doubt], list[Finding]]:
    """Return the rows whose labels are likely wrong, the most certain first, and what there is to tell of them.

    By confident learning (Northcutt et al. 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR
    70) a probe that did not learn from a row is confident of a label which it gives as surely as to training rows that
    have it. So many rows as it is confident to have another label are told of: of those to which it gives another one,
    those whose own label is least probable. The paper tells of the first ones instead; where labels are many, or some
    are easy, fewer of these are wrong. Training rows are asked about out of fold. Numbers are told of where they are
    far out (Tukey 1977, "Exploratory Data Analysis"): farther from what the probe says than three times the range of
    the middle half of the training rows beyond that half.

    A probe that agrees too little with the labels of training rows (Cohen's kappa) doubts none: where it is never sure,
    it is confident of everything, and what it would tell of are its own errors.
    """
    task, splits = prepared.corpus.task, prepared.corpus.splits
    if len(splits["train"]) < _FEWEST:
        return [], []
    asked, likely = out_of_fold(prepared)
    if not asked:
        return [], []
    targets = {split: splits[split].targets[rows] for split, rows in asked.items()}
    if task.problem != "regression":
        kappa = _agreement(task, targets["train"], likely["train"])
        if kappa <= _AGREES:
            message = (
                "a probe agrees too little with the labels of training rows that it did not learn from to doubt any "
                f"label (Cohen's kappa {kappa:.2f}; 0 is chance, 1 is always)"
            )
            return [], [Finding("weak_probe", message)]
    judge = {"multi_label": _several, "regression": _numbers}.get(task.problem, _one)
    found = sorted(judge(task, likely, targets, asked), key=lambda doubt: doubt.probability)
    return found, list(_told(prepared, found))


Arrays = Mapping[str, np.ndarray]


def out_of_fold(prepared: Prepared) -> tuple[Arrays, Arrays]:
    """Return what a probe says of rows that it did not learn from.

    Returns:
        By split: the rows that were asked about, int64 (rows,), training rows without weight left out; and for each the
        probabilities of the labels, float64 (rows, labels). Nothing where there are too few rows to hold any out.
    """
    validated = validate(prepared, prepared.features("train"))
    held_out = validated.outputs_held_out()
    if held_out is None:
        return {}, {}
    head = validated.fit()
    others = [split for split in prepared.columns if split != "train"]
    outputs = {"train": held_out} | {split: prepared.features(split) @ head.weight.T + head.bias for split in others}
    asked = {split: np.flatnonzero(np.isfinite(logits).all(1)) for split, logits in outputs.items()}
    task = prepared.corpus.task
    return asked, {split: probabilities(task, logits[asked[split]]) for split, logits in outputs.items()}


def _agreement(task: Task, targets: np.ndarray, likely: np.ndarray) -> float:
    """Return Cohen's kappa of a probe and the labels; where they are several, of whether each is there, over all."""
    if task.problem == "multi_label":
        given, said = targets >= 0.5, likely >= 0.5
        has, gets = given.mean(0), said.mean(0)
        chance = float((has * gets + (1 - has) * (1 - gets)).mean())
    else:
        given, said = likeliest(targets), likely.argmax(1)
        shares = [np.bincount(each, minlength=likely.shape[1]) / len(each) for each in (given, said)]
        chance = float(shares[0] @ shares[1])
    return float(((given == said).mean() - chance) / (1 - chance)) if chance < 1 else 0.0


def _one(task: Task, likely: Arrays, targets: Arrays, rows: Arrays) -> Iterator[Doubt]:
    given = {split: likeliest(each) for split, each in targets.items()}
    # How sure the probe is of a label where it is given; never reached by a label that no training row has. One that a
    # few have it can hardly learn: it is confident of none that it gives less than by chance.
    usual = np.full(len(task.labels), 2.0)
    for label in np.unique(given["train"]):
        usual[label] = max(likely["train"][given["train"] == label, label].mean(), 1 / len(task.labels))
    for split, shares in likely.items():
        each = np.arange(len(shares))
        own = shares[each, given[split]]
        confident = np.where(shares >= usual, shares, 0.0)
        count = int(((confident.max(1) > 0) & (confident.argmax(1) != given[split])).sum())
        other = np.flatnonzero(shares.argmax(1) != given[split])
        for row in other[np.argsort(own[other], kind="stable")][:count]:
            yield Doubt(
                (split, int(rows[split][row])),
                task.labels[given[split][row]],
                task.labels[shares[row].argmax()],
                float(own[row]),
            )


def _several(task: Task, likely: Arrays, targets: Arrays, rows: Arrays) -> Iterator[Doubt]:
    """Doubt each label of a row by itself, and tell of the one that is doubted most."""
    given = {split: each >= 0.5 for split, each in targets.items()}
    usual = np.full((2, len(task.labels)), 2.0)  # that a label is missing, that it is there
    for side, shares in enumerate((1 - likely["train"], likely["train"])):
        for label, has in enumerate((given["train"] == bool(side)).T):
            if has.any():
                usual[side, label] = shares[has, label].mean()
    for split, shares in likely.items():
        own = np.where(given[split], shares, 1 - shares)
        doubted = (1 - own > own) & (1 - own >= np.where(given[split], usual[0], usual[1]))
        doubt = np.where(doubted, own, 1.0)
        for row in np.flatnonzero(doubted.any(1)):
            label = int(doubt[row].argmin())
            has = bool(given[split][row, label])
            name = task.labels[label]
            yield Doubt(
                (split, int(rows[split][row])),
                name if has else f"not {name}",
                f"not {name}" if has else name,
                float(own[row, label]),
            )


def _numbers(task: Task, likely: Arrays, targets: Arrays, rows: Arrays) -> Iterator[Doubt]:
    gaps = {split: targets[split] - said[:, 0] for split, said in likely.items()}
    low, high = np.quantile(gaps["train"], [0.25, 0.75])
    far = _FAR_OUT * (high - low)
    sizes = np.sort(np.abs(gaps["train"]))
    for split, gap in gaps.items():
        for row in np.flatnonzero((gap < low - far) | (gap > high + far)):
            as_far = len(sizes) - np.searchsorted(sizes, abs(gap[row]))
            given, said = f"{targets[split][row]:.4g}", f"{likely[split][row, 0]:.4g}"
            yield Doubt((split, int(rows[split][row])), given, said, float(as_far / len(sizes)))


def _told(prepared: Prepared, found: list[Doubt]) -> Iterator[Finding]:
    """Tell of the rows whose labels are likely wrong."""
    for split, examples in prepared.corpus.splits.items():
        if places := tuple(doubt.place for doubt in found if doubt.place[0] == split):
            yield Finding(
                "label_error",
                f"{len(places):,} of {len(examples):,} {called(split)} rows look mislabelled to a probe that did not "
                "learn from them",
                places,
            )
