"""The numbers behind the figures, as arrays: confusions, curves, and scores by label and by group of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.evaluation.decisions import decide, probabilities
from nlp_transfer.evaluation.intervals import Bootstrap, Interval
from nlp_transfer.evaluation.metrics import compute
from nlp_transfer.evaluation.sums import ScoredRows, label_scores, label_shares, one_hot

if TYPE_CHECKING:
    from nlp_transfer.data.task import Task
    from nlp_transfer.reporting.evidence import PredictorOutputs

# Means over rows, or nearly: a group of rows may lack most labels, which a macro average cannot handle.
GROUP_METRIC = {
    "single_label": "accuracy",
    "ordinal": "accuracy",
    "multi_label": "micro_f1",
    "regression": "mean_absolute_error",
}
_MIN_GROUP_ROWS = 20  # of a group by length
_MOST_LENGTH_GROUPS = 5
_MOST_ORDERED = 500  # labels for which the optimal leaf order is computed


@dataclass(frozen=True)
class Curve:
    """A curve.

    Attributes:
        x, y: (points,).
        area: under the curve.
    """

    x: np.ndarray
    y: np.ndarray
    area: float


@dataclass(frozen=True)
class ScoredGroup:
    """A group of rows with each predictor's score.

    Attributes:
        name: of the group.
        rows: their number.
        scores: of each predictor, in the given order.
    """

    name: str
    rows: int
    scores: Sequence[Interval]


def confusions(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the confusion matrix, float64 (true labels, predicted labels), for tasks with one label per row.

    Rows count by their weight, and a soft label counts in several rows of the matrix.
    """
    shares, chosen = label_shares(task, targets), one_hot(decide(task, logits), len(task.labels))
    return (shares.T @ (chosen * np.asarray(weights, dtype=np.float64)[:, None])).toarray()


def neighbours(counts: np.ndarray) -> np.ndarray:
    """Return int64 (labels,): an order that puts confused labels next to each other.

    By hierarchical clustering with average linkage over the share in which two labels are confused.

    Args:
        counts: see `confusions`.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(counts) < 3:
        return np.arange(len(counts))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-12)
    distances = 1 - (shares + shares.T) / 2
    np.fill_diagonal(distances, 0)
    optimal = len(counts) <= _MOST_ORDERED  # with more labels it takes minutes
    tree = linkage(squareform(distances, checks=False), "average", optimal_ordering=optimal)
    return leaves_list(tree).astype(np.int64)


def largest_confusions(counts: np.ndarray, most: int) -> list[tuple[int, int, float, float]]:
    """Return (true label, predicted label, count, share of the true label) of the most frequent mistakes, in order."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), len(counts)) for place in order]
    totals = counts.sum(axis=1)
    return [
        (true, given, wrong[true, given], wrong[true, given] / totals[true])
        for true, given in pairs
        if wrong[true, given]
    ]


def label_intervals(
    task: Task,
    logits: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    bootstrap: Bootstrap,
) -> list[dict[str, Interval]]:
    """Return precision, recall and F1 of every label with bootstrap intervals; nan where undefined."""
    rows = ScoredRows.of(task, logits, targets, weights)
    if not len(rows):
        return [dict.fromkeys(("precision", "recall", "f1"), Interval(np.nan, np.nan, np.nan)) for _ in task.labels]
    blocks = [label_scores(rows.sums(counts)) for counts in bootstrap.draws(len(rows))]
    values = label_scores(rows.sums())
    drawn = {name: np.concatenate([block[name] for block in blocks], axis=1) for name in values} if blocks else {}
    nothing = np.empty((len(task.labels), 0))
    return [
        {name: bootstrap.interval(float(values[name][label, 0]), drawn.get(name, nothing)[label]) for name in values}
        for label in range(len(task.labels))
    ]


@dataclass(frozen=True)
class AbstentionEffect:
    """The effect of abstaining below a probability.

    Attributes:
        above: the probability.
        share: of the rows (by weight) that are answered.
        error: the error rate of the answers, with Wilson's interval at the effective sample size of the weights (Kish
            1965: the square of their sum over the sum of their squares).
    """

    above: float
    share: float
    error: Interval


def abstention_effects(
    task: Task,
    logits: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    above: Sequence[float],
    *,
    confidence: float,
) -> list[AbstentionEffect]:
    """Return the effect of `decision.abstain_below` at each of these probabilities, if any row is answered."""
    from scipy.stats import norm

    confidences, right = _confidences(task, logits, targets)
    weights, z, results = np.asarray(weights, dtype=np.float64), norm.ppf((1 + confidence) / 2), []
    for least in above:
        mass = weights[confidences >= least]
        if not mass.sum() > 0:
            continue
        error = float(mass @ (1 - right[confidences >= least]) / mass.sum())
        rows = mass.sum() ** 2 / np.square(mass).sum()
        middle, scale = error + z**2 / (2 * rows), 1 + z**2 / rows
        margin = z * np.sqrt(error * (1 - error) / rows + z**2 / (4 * rows**2))
        low, high = max(0.0, float((middle - margin) / scale)), min(1.0, float((middle + margin) / scale))
        results.append(AbstentionEffect(least, float(mass.sum() / weights.sum()), Interval(error, low, high)))
    return results


def _confidences(task: Task, logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of the predicted label, and the share of it that is right, float64 (rows,) each."""
    rows, chosen = np.arange(len(logits)), decide(task, logits)
    right = targets == chosen if targets.ndim == 1 else targets[rows, chosen]
    return probabilities(task, logits)[rows, chosen], right.astype(np.float64)


def risk_coverage(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> Curve:
    """Return the risk-coverage curve: the error rate of the most confident rows against their share.

    Selective prediction (Geifman & El-Yaniv 2017, "Selective Classification for Deep Neural Networks", NeurIPS). Rows
    of equal probability are added together. For tasks with one label per row; some weight must be positive.
    """
    confidences, right = _confidences(task, logits, targets)
    weights = np.asarray(weights, dtype=np.float64)
    _, place = np.unique(-confidences[weights > 0], return_inverse=True)
    mass = np.bincount(place, weights=weights[weights > 0])
    wrong = np.bincount(place, weights=(weights * (1 - right))[weights > 0])
    coverage, risks = np.cumsum(mass) / mass.sum(), np.cumsum(wrong) / np.cumsum(mass)
    return Curve(coverage, risks, float(mass @ risks / mass.sum()))


def precision_recall(stated: np.ndarray, true: np.ndarray, weights: np.ndarray) -> Curve:
    """Return precision against recall in descending order of thresholds, with average precision as the area.

    Args:
        stated: (answers,) probabilities.
        true: (answers,) the share of each that is right, 0 to 1; the area is nan if nothing is.
        weights: (answers,).
    """
    levels, place = np.unique(-stated, return_inverse=True)
    mass = np.cumsum(np.bincount(place, weights=weights, minlength=len(levels)))
    hits = np.cumsum(np.bincount(place, weights=weights * true, minlength=len(levels)))
    positive = mass > 0
    with np.errstate(invalid="ignore"):
        precision, recall = hits[positive] / mass[positive], hits[positive] / hits[-1]
    average = float((np.diff(recall, prepend=0.0) * precision).sum())
    return Curve(np.concatenate([[0.0], recall]), np.concatenate([precision[:1], precision]), average)


def area(curve_of: Callable[[np.ndarray], Curve], weights: np.ndarray, bootstrap: Bootstrap) -> Interval:
    """Return the area under a curve with its bootstrap interval.

    Args:
        curve_of: computes the curve for row weights, (rows,).
        weights: (rows,).
        bootstrap: for the interval.
    """
    drawn = [
        curve_of(weights * counts).area
        for block in bootstrap.draws(len(weights))
        for counts in block.T
        if (weights * counts).any()
    ]
    return bootstrap.interval(curve_of(weights).area, np.array(drawn, dtype=np.float64))


def length_groups(lengths: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Return up to five groups of similar size by length, with their names; none if there are too few rows.

    Args:
        lengths: int64 (rows,), in characters.
    """
    parts = min(_MOST_LENGTH_GROUPS, len(lengths) // _MIN_GROUP_ROWS)
    if parts < 2:
        return []
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, parts + 1), method="lower"))
    inner = np.searchsorted(edges[1:-1], lengths, side="left") if len(edges) > 2 else np.zeros(len(lengths), dtype=int)
    groups = [np.flatnonzero(inner == part) for part in np.unique(inner)]
    if len(groups) < 2:
        return []
    return [(f"{lengths[rows].min():,}–{lengths[rows].max():,}", rows) for rows in groups]


def grouped_scores(
    answers: Sequence[PredictorOutputs],
    targets: np.ndarray,
    weights: np.ndarray,
    groups: Sequence[tuple[str, np.ndarray]],
    *,
    metric: str,
    bootstrap: Bootstrap,
) -> list[ScoredGroup]:
    """Return each predictor's score on each group of rows, with intervals over the same resamples."""
    tasks = [each.task for each in answers]

    def scores(rows: np.ndarray) -> list[Interval]:
        logits = [each.logits[rows] for each in answers]
        truth = (targets[rows], weights[rows])
        drawn = bootstrap.replicates(tasks, logits, *truth, metrics=[metric])
        values = [compute(task, each, *truth)[metric] for task, each in zip(tasks, logits, strict=True)]
        return [bootstrap.interval(value, each[metric]) for value, each in zip(values, drawn, strict=True)]

    return [ScoredGroup(name, len(rows), scores(rows)) for name, rows in groups if len(rows)]
