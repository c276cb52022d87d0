"""What a model's outputs say: the decision on every row, and the probabilities behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.errors import UserError

if TYPE_CHECKING:
    from nlp_transfer.data.task import Task


def decide(task: Task, logits: np.ndarray) -> np.ndarray:
    """Turn logits into predictions; the only place where that is done.

    Returns:
        single_label and ordinal: int64 (rows,), the first of the largest logits. multi_label: bool (rows, labels), true
        from a probability of 0.5 on; the sign of the logit decides, so that rounding of the sigmoid cannot. regression:
        float64 (rows,).
    """
    logits = finite_logits(task, logits)
    if task.problem == "regression":
        return logits[:, 0]
    if task.problem == "multi_label":
        return logits >= 0
    return logits.argmax(axis=1)


def probabilities(task: Task, logits: np.ndarray) -> np.ndarray:
    """Return float64 (rows, labels) probabilities; multi_label: each label by itself; regression: (rows, 1) values."""
    from scipy.special import expit, softmax

    logits = finite_logits(task, logits)
    if task.problem == "regression":
        return logits
    return expit(logits) if task.problem == "multi_label" else softmax(logits, axis=1)


def finite_logits(task: Task, logits: np.ndarray) -> np.ndarray:
    """Return the logits as float64 (rows, outputs).

    Raises:
        UserError: where they are nan or infinite: a diverged model has no score.
    """
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
