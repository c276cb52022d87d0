"""The interval of each metric of one model, as reports and comparisons make it of replicates."""

from __future__ import annotations

import numpy as np

from nlp_transfer.data.task import Task
from nlp_transfer.evaluation.intervals import Interval, interval, replicates
from nlp_transfer.evaluation.metrics import METRICS, compute


def bootstrap(
    task: Task,
    logits: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray | None,
    *,
    resamples: int,
    confidence: float,
    seed: int,
) -> dict[str, Interval]:
    """Return metric → interval."""
    names, values = METRICS[task.problem], compute(task, logits, targets, weights)
    (drawn,) = replicates([task], [logits], targets, weights, metrics=names, resamples=resamples, seed=seed)
    return {name: interval(values[name], drawn[name], confidence=confidence) for name in names}
