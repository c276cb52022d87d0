"""Bootstrap intervals of the metrics; knows arrays and the task, no model and no report.

All resamples are one product with the matrix of how often each of them drew each row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.evaluation.sums import ScoredRows

if TYPE_CHECKING:
    from nlp_transfer.data.task import Task

_BLOCK = 2_000_000  # drawn rows held at a time: 16 MB


@dataclass(frozen=True)
class Interval:
    """A value and the bounds of its confidence interval; nan where undefined."""

    value: float
    low: float
    high: float


def interval(value: float, drawn: np.ndarray, *, confidence: float) -> Interval:
    """Return the value between the percentiles of its replicates (Efron 1979); those that are nan are left out.

    The interval answers how the value would vary over other test rows of the same kind. It does not contain what
    another training seed would change.

    Args:
        value: of a metric.
        drawn: float64 (resamples,), see `replicates`; without any that is defined the bounds are nan.
        confidence: share of the replicates inside the interval.
    """
    defined = drawn[~np.isnan(drawn)]
    if not len(defined):
        return Interval(value, np.nan, np.nan)
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def replicates(
    tasks: Sequence[Task],
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
    number of rows gets them, too. Their tasks may decide otherwise, nothing else.

    Args:
        tasks: of each model.
        logits: of each model, as for ``metrics.compute``.
        targets: likewise, of all of them.
        weights: likewise.
        metrics: names from ``metrics.METRICS[task.problem]``.
        resamples: how many; 0: none.
        seed: of the draws.
    """
    models = [ScoredRows.of(task, each, targets, weights) for task, each in zip(tasks, logits, strict=True)]
    if not len(models[0]):
        return [{name: np.full(resamples, np.nan) for name in metrics} for _ in logits]
    drawn: list[dict[str, list[np.ndarray]]] = [{name: [] for name in metrics} for _ in logits]
    for counts in draws(len(models[0]), resamples=resamples, seed=seed):
        for rows, blocks in zip(models, drawn, strict=True):
            for name, values in rows.metrics(metrics, counts).items():
                blocks[name].append(values)
    return [{name: np.concatenate([*values, np.empty(0)]) for name, values in blocks.items()} for blocks in drawn]


def outcome(difference: Interval, sign: int) -> str:
    """Return whether a difference is better, worse or no evidence; the sign is 1 where more is better, else -1."""
    low, high = sorted((sign * difference.low, sign * difference.high))
    return "better" if low > 0 else "worse" if high < 0 else "no evidence"


def jackknife(
    score: Callable[[np.ndarray], float], rows: int, *, confidence: float, seed: int, groups: int = 10
) -> Interval:
    r"""Return a score with its interval over other rows of the kind, for scores that rows drawn twice would mislead.

    The score is computed with each of G groups of rows left out. From these :math:`s_g` its error is
    :math:`\sqrt{\frac{G - 1}{G} \sum_g (s_g - \bar s)^2}`, and t with G - 1 degrees of freedom gives the bounds (Kott
    2001, "The delete-a-group jackknife").

    Args:
        score: of the rows of an index array.
        rows: how many there are.
        confidence: of the interval.
        seed: of the groups.
        groups: of rows, of like size.
    """
    from scipy.stats import t

    part = np.random.default_rng(seed).permutation(np.arange(rows) % groups)
    without = np.array([score(np.flatnonzero(part != group)) for group in range(groups)])
    error = np.sqrt((groups - 1) * without.var())
    value, reach = score(np.arange(rows)), float(t.ppf((1 + confidence) / 2, groups - 1) * error)
    return Interval(value, value - reach, value + reach)


def draws(rows: int, *, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield float64 (rows, some resamples): how often each resample draws each row, whatever the size of the blocks.

    Equal seeds and numbers of rows give equal draws.
    """
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK // rows)
    for start in range(0, resamples, block):
        counts = [
            np.bincount(generator.integers(rows, size=rows), minlength=rows)
            for _ in range(min(block, resamples - start))
        ]
        yield np.ascontiguousarray(np.stack(counts).T, dtype=np.float64)
