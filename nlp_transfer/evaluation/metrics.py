"""Metrics of per-example predictions; works on arrays and the task.

Two rules hold for every metric. A row of weight w counts like w equal rows, and a soft label p counts like one row per
class, of weight w · p of that class. Undefined values are nan, never 0 or 1: every metric without rows; the F1 of a
class that neither occurs nor is predicted (macro averages leave it out); a correlation with a constant; r2 of constant
targets; quadratic_kappa if a single class is all that occurs and is predicted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.errors import UserError, one_of
from nlp_transfer.evaluation.names import DEFAULT_METRIC, HIGHER_IS_BETTER, METRICS
from nlp_transfer.evaluation.sums import ScoredRows, label_scores

if TYPE_CHECKING:
    from nlp_transfer.data.task import Task


@dataclass(frozen=True)
class LabelScore:
    """The scores of one label.

    Attributes:
        name: the label.
        support: the total weight of its rows.
        precision, recall, f1: nan where undefined: if never predicted; without rows; if both.
    """

    name: str
    support: float
    precision: float
    recall: float
    f1: float


def compute(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray | None = None) -> dict[str, float]:
    """Return every metric of the problem type, in the order of `METRICS`.

    Args:
        task: the task.
        logits: (rows, outputs); regression also (rows,).
        targets: as ``Task.encode`` makes them, hard or soft. multi_label: positive from 0.5 on, except that log_loss
            uses the values themselves.
        weights: (rows,), not negative; None: 1 for every row. Rows of weight 0 count as absent.

    Raises:
        UserError: for logits that are nan or infinite: a diverged model has no score.
    """
    rows, names = ScoredRows.of(task, logits, targets, weights), METRICS[task.problem]
    if not len(rows):
        return dict.fromkeys(names, np.nan)
    return {name: float(values[0]) for name, values in rows.metrics(names).items()}


def per_label(
    task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray | None = None
) -> list[LabelScore]:
    """Return the scores of every label, in the order of the label set; none for regression."""
    if task.problem == "regression":
        return []
    rows = ScoredRows.of(task, logits, targets, weights)
    if not len(rows):
        return [LabelScore(name, 0.0, np.nan, np.nan, np.nan) for name in task.labels]
    sums = rows.sums()
    scores = np.concatenate([sums["true"], *label_scores(sums).values()], axis=1)
    return [LabelScore(name, *score) for name, score in zip(task.labels, scores.tolist(), strict=True)]


def selection_metric(task: Task, name: str) -> str:
    """Return the metric that models are selected by: `name`, or for "auto" the default of the problem type.

    Raises:
        UserError: for a name that the problem type does not have.
    """
    if name == "auto":
        return DEFAULT_METRIC[task.problem]
    if name in HIGHER_IS_BETTER and name not in METRICS[task.problem]:
        raise UserError(
            f"evaluation.metric={name!r} is not a metric of a {task.problem} task; choose from: "
            f"auto, {', '.join(METRICS[task.problem])}"
        )
    return one_of(name, ("auto", *METRICS[task.problem]), "evaluation.metric")
