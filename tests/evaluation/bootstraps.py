"""The interval of each metric of one model, as reports and comparisons make it of replicates."""

from __future__ import annotations

from typing import Any

import numpy as np

from nlp_transfer.data.task import Task
from nlp_transfer.evaluation.intervals import Bootstrap, Interval
from nlp_transfer.evaluation.metrics import METRICS, compute


def bootstrap(
    task: Task,
    logits: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray | None,
    **options: Any,
) -> dict[str, Interval]:
    """Return metric → interval; the options are those of a bootstrap."""
    names, values = METRICS[task.problem], compute(task, logits, targets, weights)
    of_rows = Bootstrap(**options)
    (drawn,) = of_rows.replicates([task], [logits], targets, weights, metrics=names)
    return {name: of_rows.interval(values[name], drawn[name]) for name in names}
