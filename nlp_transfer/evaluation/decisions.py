"""From logits to decisions: probabilities, predicted labels, and where the model abstains."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.errors import UserError

if TYPE_CHECKING:
    from nlp_transfer.data.task import Task
    from nlp_transfer.settings import DecisionSettings


def with_rules(task: Task, settings: DecisionSettings) -> Task:
    """Return the task with the decision rules that the settings override.

    The probability threshold that guarantees a risk is set later, by `decision.rules.with_risk_threshold`.

    Raises:
        UserError: for a rule that does not apply to the problem type.
    """
    threshold, least, risk = settings.threshold, settings.abstain_below, settings.risk
    if threshold is not None and task.problem != "multi_label":
        raise UserError(f"decision.threshold is for multi_label tasks; this one is {task.problem}")
    if least and task.problem not in ("single_label", "ordinal"):
        raise UserError(
            f"decision.abstain_below is for tasks with one label per text; this one is {task.problem}: leave it out"
        )
    if risk and task.problem not in ("single_label", "ordinal"):
        raise UserError(f"decision.risk is for tasks with one label per text; this one is {task.problem}: leave it out")
    if least is not None:
        risk = 0.0  # a guaranteed risk holds for its own threshold only
    elif risk is None:
        least, risk = task.abstain_below, task.risk
    else:
        least = 0.0 if risk or task.risk else task.abstain_below
    if settings.unknown and task.problem not in ("single_label", "ordinal"):
        raise UserError(
            f"decision.unknown is for tasks with one label per text, which have classes; this one is {task.problem}"
        )
    if settings.coverage and task.problem == "multi_label":
        raise UserError("decision.coverage is for one label per text, or a number; this task is multi_label")
    return dataclasses.replace(
        task,
        threshold=task.threshold if threshold is None else threshold,
        abstain_below=least,
        risk=risk,
        unknown=task.unknown if settings.unknown is None else settings.unknown,
        coverage=task.coverage if settings.coverage is None else settings.coverage,
    )


def decide(task: Task, logits: np.ndarray) -> np.ndarray:
    """Turn logits into predictions; the only place where this is done.

    Returns:
        single_label and ordinal: int64 (rows,), the first of the largest logits, also where the model abstains.
        multi_label: bool (rows, labels), true at or above the task's thresholds; logits are compared, so that rounding
        of the sigmoid cannot matter. regression: float64 (rows,).
    """
    from scipy.special import logit

    logits = finite_logits(task, logits)
    if task.problem == "regression":
        return logits[:, 0]
    if task.problem == "multi_label":
        return logits >= logit(np.asarray(task.threshold))
    return logits.argmax(axis=1)


def probabilities(task: Task, logits: np.ndarray) -> np.ndarray:
    """Return float64 (rows, labels) probabilities; multi_label: independent labels; regression: (rows, 1) values."""
    from scipy.special import expit, softmax

    logits = finite_logits(task, logits)
    if task.problem == "regression":
        return logits
    return expit(logits) if task.problem == "multi_label" else softmax(logits, axis=1)


def abstains(task: Task, logits: np.ndarray) -> np.ndarray:
    """Return bool (rows,): where the highest probability is below the task's `abstain_below`."""
    if not task.abstain_below:
        return np.zeros(len(logits), dtype=bool)
    return probabilities(task, logits).max(axis=1) < task.abstain_below


def finite_logits(task: Task, logits: np.ndarray) -> np.ndarray:
    """Return the logits as float64 (rows, outputs).

    Raises:
        UserError: if any is nan or infinite: a diverged model has no score.
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
