"""Bootstrap intervals of the metrics; knows arrays and the task, no model and no report.

Nearly every metric is a function of sums over rows: of correct, predicted and true rows a class, of losses, of squares.
So all resamples are one product of those columns with the matrix of how often each resample drew each row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nlp_transfer.evaluation.metrics import (
    compute,
    correlation,
    decide,
    label_shares,
    one_hot,
    present_rows,
    row_losses,
    weighted_ranks,
)

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from nlp_transfer.data.task import Task

Sums = Mapping[str, np.ndarray]
_BLOCK = 2_000_000  # drawn rows held at a time: 16 MB


@dataclass(frozen=True)
class Interval:
    """A value and the bounds of its confidence interval; nan where undefined."""

    value: float
    low: float
    high: float


def bootstrap(
    task: Task,
    logits: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray | None,
    *,
    metrics: Sequence[str],
    resamples: int,
    confidence: float,
    seed: int,
) -> dict[str, Interval]:
    """Return each metric with its percentile bootstrap interval (Efron 1979) over the rows.

    The interval answers how the value would vary over other test rows of the same kind. It does not contain what
    another training seed would change. A resample where a metric is undefined is left out of its interval.

    Args:
        task: the task.
        logits: as for ``metrics.compute``, which gives the values.
        targets: likewise.
        weights: likewise.
        metrics: names from ``metrics.METRICS[task.problem]``.
        resamples: 0: no interval, bounds are nan.
        confidence: share of the resamples inside the interval.
        seed: of the draws; equal seeds and row counts draw equal rows.

    Returns:
        Metric → interval, in the order asked for.
    """
    values = compute(task, logits, targets, weights)
    (drawn,) = replicates(task, [logits], targets, weights, metrics=metrics, resamples=resamples, seed=seed)
    return {name: interval(values[name], drawn[name], confidence=confidence) for name in metrics}


def interval(value: float, drawn: np.ndarray, *, confidence: float) -> Interval:
    """Return the value between the percentiles of its replicates."""
    defined = drawn[~np.isnan(drawn)]
    if not len(defined):
        return Interval(value, np.nan, np.nan)
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def replicates(
    task: Task,
    logits: Sequence[np.ndarray],
    targets: np.ndarray,
    weights: np.ndarray | None,
    *,
    metrics: Sequence[str],
    resamples: int,
    seed: int,
) -> list[dict[str, np.ndarray]]:
    """Return for each of several models the value of each metric on each resample, (resamples,).

    All models get the same draws, so their replicates can be compared pairwise; another call with the same seed and
    number of rows gets them, too.
    """
    present = [present_rows(task, each, targets, weights) for each in logits]
    models, (_, targets, weights) = [each[0] for each in present], present[0]
    if not len(targets):
        return [{name: np.full(resamples, np.nan) for name in metrics} for _ in logits]
    formulas = _REGRESSION if task.problem == "regression" else _LABELS
    columns = [_columns(task, each, targets, weights) for each in models]
    drawn: list[dict[str, list[np.ndarray]]] = [{name: [] for name in metrics} for _ in logits]
    for counts in _draws(len(targets), resamples=resamples, seed=seed):
        with np.errstate(divide="ignore", invalid="ignore"):  # undefined is nan, which the formulas want
            for model, summed, blocks in zip(models, columns, drawn, strict=True):
                sums = {name: column.T @ counts for name, column in summed.items()}
                for name in metrics:
                    if name in ("pearson", "spearman"):
                        blocks[name].append(_correlation(name, model[:, 0], targets, counts * weights[:, None]))
                    else:
                        blocks[name].append(formulas[name](sums))
    return [{name: np.concatenate([*values, np.empty(0)]) for name, values in blocks.items()} for blocks in drawn]


def _draws(rows: int, *, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield (rows, some resamples): how often each resample draws each row, whatever the size of the blocks."""
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK // rows)
    for start in range(0, resamples, block):
        counts = [
            np.bincount(generator.integers(rows, size=rows), minlength=rows)
            for _ in range(min(block, resamples - start))
        ]
        yield np.ascontiguousarray(np.stack(counts).T, dtype=np.float64)


def _columns(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    if task.problem == "regression":
        return _regression_columns(logits[:, 0], targets, weights)
    return _label_columns(task, logits, targets, weights)


def _label_columns(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    """Return what is summed for label metrics: (rows, labels) per-class columns and (rows, 1) columns."""
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


def _regression_columns(values: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    gaps = values - targets
    shifted = targets - np.sort(targets)[len(targets) // 2]  # as for correlation: a constant becomes exactly zero
    return {
        "mass": _column(weights),
        "gaps": _column(weights * np.abs(gaps)),
        "squared_gaps": _column(weights * gaps**2),
        "targets": _column(weights * shifted),
        "squared_targets": _column(weights * shifted**2),
    }


def _column(values: np.ndarray) -> csr_array:
    """Return (rows, 1). Sparse even where dense: a BLAS product changes its last bits with the number of threads."""
    from scipy.sparse import csr_array

    return csr_array(values[:, None])


def _correlation(name: str, values: np.ndarray, targets: np.ndarray, sets: np.ndarray) -> np.ndarray:
    if name == "spearman":
        return correlation(weighted_ranks(values, sets), weighted_ranks(targets, sets), sets)
    return correlation(values[:, None], targets[:, None], sets)


def _mean(column: str) -> Callable[[Sums], np.ndarray]:
    return lambda sums: (sums[column] / sums["mass"])[0]


def _f1(sums: Sums) -> np.ndarray:
    return 2 * sums["both"] / (sums["true"] + sums["chosen"])


def _macro_f1(sums: Sums) -> np.ndarray:
    scores = _f1(sums)
    return np.nansum(scores, axis=0) / (~np.isnan(scores)).sum(axis=0)


def _weighted_f1(sums: Sums) -> np.ndarray:
    return np.nansum(_f1(sums) * sums["true"], axis=0) / sums["true"].sum(axis=0)


def _micro_f1(sums: Sums) -> np.ndarray:
    return 2 * sums["both"].sum(axis=0) / (sums["true"].sum(axis=0) + sums["chosen"].sum(axis=0))


def _quadratic_kappa(sums: Sums) -> np.ndarray:
    """Return 1 - E[(t - p)^2] / E[(t' - p')^2] with t', p' independent; their moments follow from the class counts."""
    ranks = np.arange(len(sums["true"]), dtype=np.float64)[:, None]
    true, chosen = sums["true"] / sums["mass"], sums["chosen"] / sums["mass"]
    means = (ranks * true).sum(axis=0), (ranks * chosen).sum(axis=0)
    by_chance = (ranks**2 * (true + chosen)).sum(axis=0) - 2 * means[0] * means[1]
    # zero only if both are one and the same class; what is left then is rounding
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
    "mean_absolute_error": _mean("gaps"),
    "quadratic_kappa": _quadratic_kappa,
}
_REGRESSION: Mapping[str, Callable[[Sums], np.ndarray]] = {
    "mean_squared_error": _mean("squared_gaps"),
    "mean_absolute_error": _mean("gaps"),
    "r2": _r2,
}
