"""Bootstrap and jackknife confidence intervals of the metrics; works on arrays and the task.

All resamples are computed as one product with the matrix of how often each of them drew each row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.evaluation.sums import ScoredRows

if TYPE_CHECKING:
    from nlp_transfer.data.task import Task
    from nlp_transfer.settings import EvaluationSettings

_BLOCK = 2_000_000  # drawn rows in memory at a time: 16 MB


@dataclass(frozen=True)
class Interval:
    """A value and the bounds of its confidence interval; nan where undefined."""

    value: float
    low: float
    high: float


def interval(value: float, drawn: np.ndarray, *, confidence: float) -> Interval:
    """Return the value with the percentile bootstrap interval of its replicates (Efron 1979), ignoring nan.

    The interval covers variation over other test rows of the same distribution, not over training seeds.

    Args:
        value: of a metric.
        drawn: float64 (resamples,), see `Bootstrap.replicates`; the bounds are nan if none is defined.
        confidence: share of the replicates inside the interval.
    """
    defined = drawn[~np.isnan(drawn)]
    if not len(defined):
        return Interval(value, np.nan, np.nan)
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


@dataclass(frozen=True)
class Bootstrap:
    """Resampling of rows with replacement (Efron 1979), from which confidence intervals are computed.

    Attributes:
        resamples: their number; 0: none, and the bounds of intervals are nan.
        seed: of the draws; equal seeds and numbers of rows give equal draws.
        confidence: of the intervals.
    """

    resamples: int
    seed: int
    confidence: float = 0.95

    @classmethod
    def of(cls, settings: EvaluationSettings, *, seed: int) -> Bootstrap:
        """Return the bootstrap of a run's settings."""
        return cls(settings.resamples, seed, settings.confidence)

    def interval(self, value: float, drawn: np.ndarray) -> Interval:
        """Return the value with the interval of its replicates, see the function `interval`."""
        return interval(value, drawn, confidence=self.confidence)

    def draws(self, rows: int) -> Iterator[np.ndarray]:
        """Yield blocks of float64 (rows, resamples in the block): how often each resample draws each row.

        Equal seeds and numbers of rows give equal draws, whatever the block size.
        """
        generator = np.random.default_rng(self.seed)
        block = max(1, _BLOCK // rows)
        for start in range(0, self.resamples, block):
            counts = [
                np.bincount(generator.integers(rows, size=rows), minlength=rows)
                for _ in range(min(block, self.resamples - start))
            ]
            yield np.ascontiguousarray(np.stack(counts).T, dtype=np.float64)

    def replicates(
        self,
        tasks: Sequence[Task],
        logits: Sequence[np.ndarray],
        targets: np.ndarray,
        weights: np.ndarray | None,
        *,
        metrics: Sequence[str],
    ) -> list[dict[str, np.ndarray]]:
        """Return, for each of several models, the value of each metric on each resample, (resamples,).

        All models get the same draws, so that their replicates can be compared pairwise; so does another call with the
        same number of rows.

        Args:
            tasks: one per model; they may differ in their decision rules only.
            logits: one array per model, as for ``metrics.compute``.
            targets: shared by all models.
            weights: likewise.
            metrics: names from ``metrics.METRICS[task.problem]``.
        """
        models = [ScoredRows.of(task, each, targets, weights) for task, each in zip(tasks, logits, strict=True)]
        if not len(models[0]):
            return [{name: np.full(self.resamples, np.nan) for name in metrics} for _ in logits]
        drawn: list[dict[str, list[np.ndarray]]] = [{name: [] for name in metrics} for _ in logits]
        for counts in self.draws(len(models[0])):
            for rows, blocks in zip(models, drawn, strict=True):
                for name, values in rows.metrics(metrics, counts).items():
                    blocks[name].append(values)
        return [{name: np.concatenate([*values, np.empty(0)]) for name, values in blocks.items()} for blocks in drawn]


def outcome(difference: Interval, sign: int) -> str:
    """Return "better", "worse" or "no evidence"; the sign is 1 for metrics where higher is better, else -1."""
    low, high = sorted((sign * difference.low, sign * difference.high))
    return "better" if low > 0 else "worse" if high < 0 else "no evidence"


def jackknife(
    score: Callable[[np.ndarray], float], rows: int, *, confidence: float, seed: int, groups: int = 10
) -> Interval:
    r"""Return a score with its delete-a-group jackknife interval, for scores that duplicate rows would distort.

    The score is computed with each of G groups of rows left out. From these :math:`s_g` its standard error is
    :math:`\sqrt{\frac{G - 1}{G} \sum_g (s_g - \bar s)^2}`, and Student's t with G - 1 degrees of freedom gives the
    bounds (Kott 2001, "The delete-a-group jackknife").

    Args:
        score: computes the score of an array of row indices.
        rows: the number of rows.
        confidence: of the interval.
        seed: of the groups.
        groups: the number of groups, of nearly equal size.
    """
    from scipy.stats import t

    group_of = np.random.default_rng(seed).permutation(np.arange(rows) % groups)
    scores = np.array([score(np.flatnonzero(group_of != group)) for group in range(groups)])
    error = np.sqrt((groups - 1) * scores.var())
    value, margin = score(np.arange(rows)), float(t.ppf((1 + confidence) / 2, groups - 1) * error)
    return Interval(value, value - margin, value + margin)
