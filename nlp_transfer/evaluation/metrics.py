"""Metrics of per-example predictions, computed by scikit-learn; knows arrays and the task, no model, file or process.

Two rules hold for every number here. A row with weight w counts like w equal rows, and a row whose label is a
distribution p counts like one row a class with weight w · p of that class. And what is undefined is nan, never 0 or 1:
every metric without rows; the F1 of a class that neither occurs nor is predicted (macro averages leave it out); a
correlation with a constant; r2 of constant targets; quadratic_kappa when one class is all that occurs and is predicted.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nlp_transfer.errors import UserError, one_of
from nlp_transfer.evaluation.names import DEFAULT_METRIC, HIGHER_IS_BETTER, METRICS

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from nlp_transfer.data.task import Task


@dataclass(frozen=True)
class LabelScore:
    """How one label fares.

    Attributes:
        name: the label.
        support: its rows, or the weight they have.
        precision, recall, f1: nan where undefined: never predicted; no row; neither.
    """

    name: str
    support: float
    precision: float
    recall: float
    f1: float


def decide(task: Task, logits: np.ndarray) -> np.ndarray:
    """Turn logits into predictions; the only place where that is done.

    Returns:
        single_label and ordinal: int64 (rows,), the first of the largest logits. multi_label: bool (rows, labels), true
        from a probability of 0.5 on; the sign of the logit decides, so that rounding of the sigmoid cannot. regression:
        float64 (rows,).
    """
    logits = _finite(task, logits)
    if task.problem == "regression":
        return logits[:, 0]
    if task.problem == "multi_label":
        return logits >= 0
    return logits.argmax(axis=1)


def probabilities(task: Task, logits: np.ndarray) -> np.ndarray:
    """Return float64 (rows, labels) probabilities; multi_label: each label by itself; regression: (rows, 1) values."""
    from scipy.special import expit, softmax

    logits = _finite(task, logits)
    if task.problem == "regression":
        return logits
    return expit(logits) if task.problem == "multi_label" else softmax(logits, axis=1)


def compute(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray | None = None) -> dict[str, float]:
    """Return every metric of the problem type, in the order of `METRICS`.

    Args:
        task: the task.
        logits: (rows, outputs); regression also (rows,).
        targets: as ``Task.encode`` makes them, hard or soft. multi_label: positive from 0.5 on, except that log_loss is
            taken against the values themselves.
        weights: (rows,), not negative; None: 1 a row. Rows of weight 0 count as absent.

    Raises:
        UserError: for logits that are nan or infinite: a diverged model has no score.
    """
    logits, targets, weights = present_rows(task, logits, targets, weights)
    if not len(logits):
        return dict.fromkeys(METRICS[task.problem], np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns where a value is undefined; here it is nan, and documented
        values = _BY_PROBLEM[task.problem](task, logits, targets, weights)
    return {name: float(values[name]) for name in METRICS[task.problem]}


def per_label(
    task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray | None = None
) -> list[LabelScore]:
    """Return the scores of every label, in the order of the label set; none for regression."""
    from sklearn.metrics import precision_recall_fscore_support

    if task.problem == "regression":
        return []
    logits, targets, weights = present_rows(task, logits, targets, weights)
    if not len(logits):
        return [LabelScore(name, 0.0, np.nan, np.nan, np.nan) for name in task.labels]
    truth, predicted, mass = _compared(task, logits, targets, weights)
    scores = precision_recall_fscore_support(
        truth, predicted, labels=_columns(task), average=None, zero_division=np.nan, sample_weight=mass
    )
    precision, recall, f1, support = ([float(value) for value in column] for column in scores)
    return [LabelScore(*score) for score in zip(task.labels, support, precision, recall, f1, strict=True)]


def selection_metric(task: Task, name: str) -> str:
    """Return the metric to choose by: `name`, or for "auto" the default of the problem type.

    Raises:
        UserError: for a name that the problem type does not have.
    """
    if name == "auto":
        return DEFAULT_METRIC[task.problem]
    if name in HIGHER_IS_BETTER and name not in METRICS[task.problem]:
        raise UserError(
            f"evaluation.metric={name!r} is no metric of a {task.problem} task; choose from: "
            f"auto, {', '.join(METRICS[task.problem])}"
        )
    return one_of(name, ("auto", *METRICS[task.problem]), "evaluation.metric")


def present_rows(
    task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return logits, targets and weights in double precision without the rows of weight 0."""
    logits = _finite(task, logits)
    targets = np.asarray(targets)
    weights = np.ones(len(logits)) if weights is None else np.asarray(weights, dtype=np.float64)
    assert len(logits) == len(targets) == len(weights), (logits.shape, targets.shape, weights.shape)
    if targets.dtype.kind == "f":
        targets = targets.astype(np.float64)
    present = weights > 0
    return logits[present], targets[present], weights[present]


def label_shares(task: Task, targets: np.ndarray) -> csr_array:
    """Return sparse float64 (rows, labels): how much of every label a row counts as."""
    from scipy.sparse import csr_array

    if targets.ndim == 1:
        return one_hot(targets, len(task.labels))
    return csr_array(
        (targets >= 0.5).astype(np.float64) if task.problem == "multi_label" else targets.astype(np.float64)
    )


def one_hot(classes: np.ndarray, labels: int) -> csr_array:
    """Return sparse float64 (rows, labels) with a one where each row's class is."""
    from scipy.sparse import csr_array

    return csr_array((np.ones(len(classes)), (np.arange(len(classes)), classes)), shape=(len(classes), labels))


def row_losses(task: Task, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return (rows,): cross-entropy against the class or distribution; multi_label: mean over the labels."""
    from scipy.special import log_expit, log_softmax

    if task.problem == "multi_label":
        return -(targets * log_expit(logits) + (1 - targets) * log_expit(-logits)).mean(axis=1)
    # from logits, not probabilities: scikit-learn's log_loss clips those that have underflowed
    surprises = -log_softmax(logits, axis=1)
    return surprises[np.arange(len(targets)), targets] if targets.ndim == 1 else (targets * surprises).sum(axis=1)


def weighted_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the rank of every row among `weights` rows, equal values sharing the middle rank.

    Args:
        values: (rows,).
        weights: (rows, sets): how often a row occurs in each of several sets of rows.

    Returns:
        (rows, sets). Correlating two of them gives Spearman's coefficient of every set.
    """
    from scipy.sparse import csr_array

    distinct, group = np.unique(values, return_inverse=True)
    member = csr_array((np.ones(len(values)), (group, np.arange(len(values)))), shape=(len(distinct), len(values)))
    mass = member @ weights
    return (np.cumsum(mass, axis=0) - mass / 2)[group]


def correlation(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return Pearson's coefficient of every set of rows, nan where a side is constant.

    Args:
        first: (rows, sets), or (rows, 1) where all sets share the values.
        second: likewise.
        weights: (rows, sets): how often a row occurs in each set.
    """
    total = weights.sum(axis=0)
    deviations, spreads = [], []
    for values in (first, second):
        # Shifting by a value that occurs makes a constant exactly zero, so that rounding is not mistaken for variance.
        shifted = values - np.sort(values, axis=0)[len(values) // 2]
        deviation = shifted - (weights * shifted).sum(axis=0) / total
        spread = (weights * deviation**2).sum(axis=0)
        rounding = total * (1e-12 * np.abs(shifted).max(axis=0)) ** 2
        deviations.append(deviation)
        spreads.append(np.where(spread > rounding, spread, np.nan))
    return (weights * deviations[0] * deviations[1]).sum(axis=0) / np.sqrt(spreads[0] * spreads[1])


def _finite(task: Task, logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, dtype=np.float64)
    if task.problem == "regression":
        logits = logits.reshape(-1, 1)
    assert logits.ndim == 2, logits.shape
    assert logits.shape[1] == task.outputs, (logits.shape, task.outputs)
    broken = ~np.isfinite(logits).all(axis=1)
    if broken.any():
        raise UserError(
            f"the model's output is nan or infinite for {broken.sum():,} of {len(logits):,} rows: the training has "
            "diverged; lower the learning rate or train in float32"
        )
    return logits


def _compared(
    task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return truth, prediction and weight for scikit-learn: one entry a row, or a (row, class) pair of a soft label."""
    predicted = decide(task, logits)
    if task.problem == "multi_label":
        truth = (targets >= 0.5).astype(np.int64)
        if len(task.labels) == 1:  # scikit-learn takes a single column for binary classes, of which 1 is our label
            return truth[:, 0], predicted[:, 0].astype(np.int64), weights
        return truth, predicted.astype(np.int64), weights
    if targets.ndim == 1:
        return targets, predicted, weights
    rows, classes = np.nonzero(targets)
    return classes, predicted[rows], weights[rows] * targets[rows, classes]


def _columns(task: Task) -> list[int]:
    return [1] if task.problem == "multi_label" and len(task.labels) == 1 else list(range(len(task.labels)))


def _f1(task: Task, compared: tuple[np.ndarray, np.ndarray, np.ndarray], average: str) -> float:
    from sklearn.metrics import f1_score

    truth, predicted, mass = compared
    return f1_score(truth, predicted, labels=_columns(task), average=average, zero_division=np.nan, sample_weight=mass)


def _single_label(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    from sklearn.metrics import accuracy_score

    compared = _compared(task, logits, targets, weights)
    truth, predicted, mass = compared
    return {
        "accuracy": accuracy_score(truth, predicted, sample_weight=mass),
        "macro_f1": _f1(task, compared, "macro"),
        "weighted_f1": _f1(task, compared, "weighted"),
        "log_loss": (weights * row_losses(task, logits, targets)).sum() / mass.sum(),
    }


def _multi_label(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    from sklearn.metrics import accuracy_score

    compared = _compared(task, logits, targets, weights)
    return {
        "micro_f1": _f1(task, compared, "micro"),
        "macro_f1": _f1(task, compared, "macro"),
        "subset_accuracy": accuracy_score(compared[0], compared[1], sample_weight=weights),
        "log_loss": np.average(row_losses(task, logits, targets), weights=weights),
    }


def _ordinal(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    from sklearn.metrics import cohen_kappa_score, mean_absolute_error

    truth, predicted, mass = _compared(task, logits, targets, weights)
    return _single_label(task, logits, targets, weights) | {
        "mean_absolute_error": mean_absolute_error(truth, predicted, sample_weight=mass),
        "quadratic_kappa": cohen_kappa_score(
            truth, predicted, labels=_columns(task), weights="quadratic", sample_weight=mass
        ),
    }


def _regression(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

    values, sets = decide(task, logits), weights[:, None]
    shift = targets[0]  # constant targets become exactly zero: their variance is then no rounding error to divide by
    r2 = r2_score(targets - shift, values - shift, sample_weight=weights, force_finite=False)
    return {
        "mean_squared_error": mean_squared_error(targets, values, sample_weight=weights),
        "mean_absolute_error": mean_absolute_error(targets, values, sample_weight=weights),
        "pearson": correlation(values[:, None], targets[:, None], sets)[0],
        "spearman": correlation(weighted_ranks(values, sets), weighted_ranks(targets, sets), sets)[0],
        "r2": r2 if np.isfinite(r2) else np.nan,
    }


_BY_PROBLEM = {
    "single_label": _single_label,
    "multi_label": _multi_label,
    "ordinal": _ordinal,
    "regression": _regression,
}
