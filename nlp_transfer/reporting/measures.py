"""The numbers behind the figures: confusions, curves, scores of labels and of groups of rows. Arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.evaluation.decisions import decide, probabilities
from nlp_transfer.evaluation.intervals import Interval, draws, interval, replicates
from nlp_transfer.evaluation.metrics import compute
from nlp_transfer.evaluation.sums import ScoredRows, label_scores, label_shares, one_hot

if TYPE_CHECKING:
    from nlp_transfer.data.task import Task
    from nlp_transfer.reporting.evidence import Answers

# What is a mean over rows, or nearly: a group of rows may lack most labels, which a macro average does not stand.
GROUP_METRIC = {
    "single_label": "accuracy",
    "ordinal": "accuracy",
    "multi_label": "micro_f1",
    "regression": "mean_absolute_error",
}
_FEWEST = 20  # rows of a group of lengths
_LENGTHS = 5
_ORDERED = 500  # labels


@dataclass(frozen=True)
class Curve:
    """Points of a line, and one number that says it all.

    Attributes:
        x, y: (points,).
        area: under it.
    """

    x: np.ndarray
    y: np.ndarray
    area: float


@dataclass(frozen=True)
class Group:
    """Some of the rows, and how each predictor fares on them.

    Attributes:
        name: of the group.
        rows: how many they are.
        scores: of each predictor, in the order they were given.
    """

    name: str
    rows: int
    scores: Sequence[Interval]


def confusions(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return float64 (labels, labels): rows that have the label of the line and were given that of the column.

    Rows count by their weight; one whose label is a distribution counts in several lines. One label a row only.
    """
    shares, chosen = label_shares(task, targets), one_hot(decide(task, logits), len(task.labels))
    return (shares.T @ (chosen * np.asarray(weights, dtype=np.float64)[:, None])).toarray()


def neighbours(counts: np.ndarray) -> np.ndarray:
    """Return int64 (labels,): an order in which labels that are taken for each other stand beside each other.

    Args:
        counts: as `confusions` returns them; average linkage over the share in which two are confused.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(counts) < 3:
        return np.arange(len(counts))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-12)
    apart = 1 - (shares + shares.T) / 2
    np.fill_diagonal(apart, 0)
    exact = len(counts) <= _ORDERED  # beyond that the best of all orders takes minutes
    return leaves_list(linkage(squareform(apart, checks=False), "average", optimal_ordering=exact)).astype(np.int64)


def largest_confusions(counts: np.ndarray, most: int) -> list[tuple[int, int, float, float]]:
    """Return (true, given, how many, share of the true label) of the most frequent mistakes, the largest first."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), len(counts)) for place in order]
    totals = counts.sum(axis=1)
    return [
        (one, other, wrong[one, other], wrong[one, other] / totals[one]) for one, other in pairs if wrong[one, other]
    ]


def label_intervals(
    task: Task,
    logits: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    *,
    resamples: int,
    confidence: float,
    seed: int,
) -> list[dict[str, Interval]]:
    """Return precision, recall and F1 of every label with bootstrap intervals; nan where undefined."""
    rows = ScoredRows.of(task, logits, targets, weights)
    if not len(rows):
        return [dict.fromkeys(("precision", "recall", "f1"), Interval(np.nan, np.nan, np.nan)) for _ in task.labels]
    blocks = [label_scores(rows.sums(counts)) for counts in draws(len(rows), resamples=resamples, seed=seed)]
    values = label_scores(rows.sums())
    drawn = {name: np.concatenate([block[name] for block in blocks], axis=1) for name in values} if blocks else {}
    nothing = np.empty((len(task.labels), 0))
    return [
        {
            name: interval(float(values[name][label, 0]), drawn.get(name, nothing)[label], confidence=confidence)
            for name in values
        }
        for label in range(len(task.labels))
    ]


@dataclass(frozen=True)
class Answered:
    """What answering above a probability comes to.

    Attributes:
        above: the probability.
        share: of the rows (by weight) that are answered.
        error: share of the answers that is wrong, with Wilson's interval for as many rows as the weights are worth
            (Kish 1965: the square of their sum by the sum of their squares).
    """

    above: float
    share: float
    error: Interval


def answered_above(
    task: Task,
    logits: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    above: Sequence[float],
    *,
    confidence: float,
) -> list[Answered]:
    """Return what `decision.abstain_below` would come to at these probabilities, where anything is answered."""
    from scipy.stats import norm

    sure, right = _surest(task, logits, targets)
    weights, z, found = np.asarray(weights, dtype=np.float64), norm.ppf((1 + confidence) / 2), []
    for least in above:
        mass = weights[sure >= least]
        if not mass.sum() > 0:
            continue
        wrong, rows = float(mass @ (1 - right[sure >= least]) / mass.sum()), mass.sum() ** 2 / np.square(mass).sum()
        middle, more = wrong + z**2 / (2 * rows), 1 + z**2 / rows
        reach = z * np.sqrt(wrong * (1 - wrong) / rows + z**2 / (4 * rows**2))
        low, high = max(0.0, float((middle - reach) / more)), min(1.0, float((middle + reach) / more))
        found.append(Answered(least, float(mass.sum() / weights.sum()), Interval(wrong, low, high)))
    return found


def _surest(task: Task, logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of the label that is given, and how far it is right, float64 (rows,) each."""
    rows, chosen = np.arange(len(logits)), decide(task, logits)
    right = targets == chosen if targets.ndim == 1 else targets[rows, chosen]
    return probabilities(task, logits)[rows, chosen], right.astype(np.float64)


def risk_coverage(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> Curve:
    """Return the error among the rows that are kept against the share that is, the surest first.

    That is selective prediction (Geifman & El-Yaniv 2017, "Selective Classification for Deep Neural Networks",
    NeurIPS). Rows of one probability are kept together; where the curve has to pass through them, it does so as if they
    came in any order. One label a row only, and some weight.
    """
    sure, right = _surest(task, logits, targets)
    weights = np.asarray(weights, dtype=np.float64)
    _, place = np.unique(-sure[weights > 0], return_inverse=True)
    mass = np.bincount(place, weights=weights[weights > 0])
    wrong = np.bincount(place, weights=(weights * (1 - right))[weights > 0])
    kept, risks = np.cumsum(mass) / mass.sum(), np.cumsum(wrong) / np.cumsum(mass)
    return Curve(kept, risks, float(mass @ risks / mass.sum()))


def precision_recall(stated: np.ndarray, true: np.ndarray, weights: np.ndarray) -> Curve:
    """Return precision against recall for every threshold, the highest first, and average precision as the area.

    Args:
        stated: (answers,) probabilities.
        true: (answers,) how much of each is right, 0 to 1; the area is nan where nothing is.
        weights: (answers,).
    """
    levels, place = np.unique(-stated, return_inverse=True)
    mass = np.cumsum(np.bincount(place, weights=weights, minlength=len(levels)))
    hits = np.cumsum(np.bincount(place, weights=weights * true, minlength=len(levels)))
    there = mass > 0
    with np.errstate(invalid="ignore"):
        precision, recall = hits[there] / mass[there], hits[there] / hits[-1]
    average = float((np.diff(recall, prepend=0.0) * precision).sum())
    return Curve(np.concatenate([[0.0], recall]), np.concatenate([precision[:1], precision]), average)


def area(
    curve_of: Callable[[np.ndarray], Curve], weights: np.ndarray, *, resamples: int, confidence: float, seed: int
) -> Interval:
    """Return the area under a curve with its bootstrap interval.

    Args:
        curve_of: returns the curve of rows that have these weights, (rows,).
        weights: (rows,).
        resamples: 0: no interval.
        confidence: of the interval.
        seed: of the draws.
    """
    drawn = [
        curve_of(weights * counts).area
        for block in draws(len(weights), resamples=resamples, seed=seed)
        for counts in block.T
        if (weights * counts).any()
    ]
    return interval(curve_of(weights).area, np.array(drawn, dtype=np.float64), confidence=confidence)


def length_groups(lengths: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Return up to five groups of about as many rows each by length, with their names; none where rows are too few.

    Args:
        lengths: int64 (rows,), in characters.
    """
    parts = min(_LENGTHS, len(lengths) // _FEWEST)
    if parts < 2:
        return []
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, parts + 1), method="lower"))
    inner = np.searchsorted(edges[1:-1], lengths, side="left") if len(edges) > 2 else np.zeros(len(lengths), dtype=int)
    groups = [np.flatnonzero(inner == part) for part in np.unique(inner)]
    if len(groups) < 2:
        return []
    return [(f"{lengths[rows].min():,}–{lengths[rows].max():,}", rows) for rows in groups]


def grouped_scores(
    answers: Sequence[Answers],
    targets: np.ndarray,
    weights: np.ndarray,
    groups: Sequence[tuple[str, np.ndarray]],
    *,
    metric: str,
    resamples: int,
    confidence: float,
    seed: int,
) -> list[Group]:
    """Return how each predictor fares on each group of rows, on the same resamples of it."""
    tasks = [each.task for each in answers]

    def scores(rows: np.ndarray) -> list[Interval]:
        logits = [each.logits[rows] for each in answers]
        held = (targets[rows], weights[rows])
        drawn = replicates(tasks, logits, *held, metrics=[metric], resamples=resamples, seed=seed)
        values = [compute(task, each, *held)[metric] for task, each in zip(tasks, logits, strict=True)]
        return [interval(value, each[metric], confidence=confidence) for value, each in zip(values, drawn, strict=True)]

    return [Group(name, len(rows), scores(rows)) for name, rows in groups if len(rows)]
