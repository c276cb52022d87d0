"""Metrics as functions of sums over rows: true, predicted and correct rows per class, losses, squared errors.

The metrics of many resamples are then one product of the rows' columns with the matrix of how often each resample drew
each row. Only correlations need the rows themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nlp_transfer.evaluation.correlation import pearson, spearman
from nlp_transfer.evaluation.decisions import decide, finite_logits, probabilities

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from nlp_transfer.data.task import Task

Sums = Mapping[str, np.ndarray]  # (columns, sets of rows)


@dataclass(frozen=True)
class ScoredRows:
    """Predicted rows, without those of weight 0.

    Attributes:
        task: the task.
        logits: float64 (rows, outputs).
        targets: (rows,) or (rows, labels).
        weights: float64 (rows,), positive.
        columns: the summands, sparse (rows, 1 or labels) each; empty without rows.
    """

    task: Task
    logits: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    columns: Mapping[str, Any]

    @classmethod
    def of(cls, task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray | None) -> ScoredRows:
        """Return the rows whose weight is not 0; see `metrics.compute` for the arguments."""
        logits, targets, weights = _present(task, logits, targets, weights)
        columns_of = _regression_columns if task.problem == "regression" else _label_columns
        columns = columns_of(task, logits, targets, weights) if len(logits) else {}
        return cls(task, logits, targets, weights, columns)

    def __len__(self) -> int:
        return len(self.logits)

    def sums(self, counts: np.ndarray | None = None) -> Sums:
        """Return the sums over sets of rows.

        Args:
            counts: float64 (rows, sets), how often each set contains each row; None: one set, of every row once.
        """
        counts = np.ones((len(self), 1)) if counts is None else counts
        return {name: column.T @ counts for name, column in self.columns.items()}

    def metrics(self, names: Iterable[str], counts: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return each metric of each set, (sets,), nan where undefined; for `counts` see `sums`."""
        formulas = _REGRESSION if self.task.problem == "regression" else _LABELS
        sums = self.sums(counts)
        weights = self.weights[:, None] if counts is None else counts * self.weights[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):  # undefined values become nan, as intended
            return {
                name: _CORRELATIONS[name](self.logits[:, 0], self.targets, weights)
                if name in _CORRELATIONS
                else formulas[name](sums)
                for name in names
            }


def _present(
    task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return logits, targets and weights in double precision, without rows of weight 0."""
    logits = finite_logits(task, logits)
    targets = np.asarray(targets)
    weights = np.ones(len(logits)) if weights is None else np.asarray(weights, dtype=np.float64)
    assert len(logits) == len(targets) == len(weights), (logits.shape, targets.shape, weights.shape)
    if targets.dtype.kind == "f":
        targets = targets.astype(np.float64)
    present = weights > 0
    return logits[present], targets[present], weights[present]


def label_shares(task: Task, targets: np.ndarray) -> csr_array:
    """Return sparse float64 (rows, labels): the share of each label in each row, 0 to 1."""
    from scipy.sparse import csr_array

    if targets.ndim == 1:
        return one_hot(targets, len(task.labels))
    return csr_array(
        (targets >= 0.5).astype(np.float64) if task.problem == "multi_label" else targets.astype(np.float64)
    )


def one_hot(classes: np.ndarray, labels: int) -> csr_array:
    """Return sparse float64 (rows, labels) one-hot vectors."""
    from scipy.sparse import csr_array

    return csr_array((np.ones(len(classes)), (np.arange(len(classes)), classes)), shape=(len(classes), labels))


def row_losses(task: Task, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return (rows,): cross-entropy against the class or distribution; multi_label: mean over the labels."""
    from scipy.special import log_expit, log_softmax

    if task.problem == "multi_label":
        return -(targets * log_expit(logits) + (1 - targets) * log_expit(-logits)).mean(axis=1)
    # From logits, not probabilities: these may underflow, and scikit-learn's log_loss clips them.
    surprises = -log_softmax(logits, axis=1)
    return surprises[np.arange(len(targets)), targets] if targets.ndim == 1 else (targets * surprises).sum(axis=1)


def row_squares(task: Task, logits: np.ndarray, shares: csr_array) -> np.ndarray:
    """Return the Brier score (1950) of each row, (rows,): the squared distance of its probabilities from its label.

    multi_label: the mean over the labels; otherwise the sum over them, from 0 to 2, in expectation over a soft label.
    """
    likely = probabilities(task, logits)
    if task.problem == "multi_label":
        return np.square(likely - shares.toarray()).mean(axis=1)
    mass = shares.sum(axis=1)
    return mass * (1 + np.square(likely).sum(axis=1)) - 2 * (shares * likely).sum(axis=1)


def _label_columns(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    """Return the summands of label metrics: (rows, labels) per-class columns and (rows, 1) columns."""
    from scipy.sparse import csr_array

    shares, predicted = label_shares(task, targets), decide(task, logits)
    if task.problem == "multi_label":
        chosen = csr_array(predicted.astype(np.float64))
        mass, hits = weights, (predicted == (targets >= 0.5)).all(axis=1)
    else:
        chosen = one_hot(predicted, len(task.labels))
        mass, hits = weights * shares.sum(axis=1), (shares * chosen).sum(axis=1)
    columns: dict[str, Any] = {
        "mass": _column(mass),
        "hits": _column(weights * hits),
        "losses": _column(weights * row_losses(task, logits, targets)),
        "squares": _column(weights * row_squares(task, logits, shares)),
        "true": shares * weights[:, None],
        "chosen": chosen * mass[:, None],
        "both": shares * chosen * weights[:, None],
    }
    if task.problem == "ordinal":
        ranks = np.arange(len(task.labels), dtype=np.float64)
        gaps = np.abs(ranks - predicted[:, None])
        columns |= {
            "gaps": _column(weights * (shares * gaps).sum(axis=1)),
            "squared_gaps": _column(weights * (shares * gaps**2).sum(axis=1)),
        }
    return columns


def _regression_columns(_: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    gaps = logits[:, 0] - targets
    shifted = targets - np.sort(targets)[len(targets) // 2]  # by the median, so that a constant becomes exactly zero
    return {
        "mass": _column(weights),
        "gaps": _column(weights * np.abs(gaps)),
        "squared_gaps": _column(weights * gaps**2),
        "targets": _column(weights * shifted),
        "squared_targets": _column(weights * shifted**2),
    }


def _column(values: np.ndarray) -> csr_array:
    """Return (rows, 1), sparse even if dense: BLAS products change in their last bits with the number of threads."""
    from scipy.sparse import csr_array

    return csr_array(values[:, None])


def _mean(column: str) -> Callable[[Sums], np.ndarray]:
    return lambda sums: (sums[column] / sums["mass"])[0]


def _f1(sums: Sums) -> np.ndarray:
    return 2 * sums["both"] / (sums["true"] + sums["chosen"])


def label_scores(sums: Sums) -> dict[str, np.ndarray]:
    """Return precision, recall and F1 of every label, (labels, sets of rows) each; nan where undefined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = sums["both"] / sums["chosen"], sums["both"] / sums["true"]
        return {"precision": precision, "recall": recall, "f1": _f1(sums)}


def _macro_f1(sums: Sums) -> np.ndarray:
    scores = _f1(sums)
    return np.nansum(scores, axis=0) / (~np.isnan(scores)).sum(axis=0)


def _weighted_f1(sums: Sums) -> np.ndarray:
    return np.nansum(_f1(sums) * sums["true"], axis=0) / sums["true"].sum(axis=0)


def _micro_f1(sums: Sums) -> np.ndarray:
    return 2 * sums["both"].sum(axis=0) / (sums["true"].sum(axis=0) + sums["chosen"].sum(axis=0))


def _quadratic_kappa(sums: Sums) -> np.ndarray:
    """Return 1 - E[(t - p)^2] / E[(t' - p')^2] with t', p' independent, their moments computed from class counts."""
    ranks = np.arange(len(sums["true"]), dtype=np.float64)[:, None]
    true, chosen = sums["true"] / sums["mass"], sums["chosen"] / sums["mass"]
    means = (ranks * true).sum(axis=0), (ranks * chosen).sum(axis=0)
    by_chance = (ranks**2 * (true + chosen)).sum(axis=0) - 2 * means[0] * means[1]
    # Zero, but for rounding, only if truth and prediction are always one and the same class.
    return 1 - (sums["squared_gaps"] / sums["mass"])[0] / np.where(by_chance > 1e-12, by_chance, np.nan)


def _r2(sums: Sums) -> np.ndarray:
    mean = sums["targets"] / sums["mass"]
    variance = sums["squared_targets"] / sums["mass"] - mean**2
    variance = np.where(variance > 1e-12 * sums["squared_targets"] / sums["mass"], variance, np.nan)
    return (1 - sums["squared_gaps"] / sums["mass"] / variance)[0]


_LABELS: Mapping[str, Callable[[Sums], np.ndarray]] = {
    "accuracy": _mean("hits"),
    "subset_accuracy": _mean("hits"),
    "macro_f1": _macro_f1,
    "weighted_f1": _weighted_f1,
    "micro_f1": _micro_f1,
    "log_loss": _mean("losses"),
    "brier": _mean("squares"),
    "mean_absolute_error": _mean("gaps"),
    "quadratic_kappa": _quadratic_kappa,
}
_REGRESSION: Mapping[str, Callable[[Sums], np.ndarray]] = {
    "mean_squared_error": _mean("squared_gaps"),
    "mean_absolute_error": _mean("gaps"),
    "r2": _r2,
}
_CORRELATIONS: Mapping[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "pearson": pearson,
    "spearman": spearman,
}
