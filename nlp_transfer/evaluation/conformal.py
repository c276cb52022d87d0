"""Split conformal prediction: label sets, and intervals of numbers, that contain the truth with a stated probability.

Works on logits, targets and the task; knows neither models nor files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.data.task import likeliest
from nlp_transfer.evaluation.decisions import finite_logits, probabilities

if TYPE_CHECKING:
    from nlp_transfer.data.task import Task


def nonconformity(task: Task, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    r"""Return the nonconformity scores, float64 (rows,): how badly each prediction fits the truth.

    For labels, :math:`1 - p` of the true label, the least ambiguous classifier (LAC; Sadinle, Lei and Wasserman 2019,
    "Least Ambiguous Set-Valued Classifiers with Bounded Error Levels", JASA). Among all rules with the same coverage it
    has the smallest sets on average if the probabilities are right, and they are calibrated. RAPS (Angelopoulos et al.
    2021) covers easy and hard rows more evenly, at the price of larger sets. For regression, the distance of the
    prediction from the target.

    Args:
        task: single_label, ordinal or regression.
        logits: (rows, outputs).
        targets: as ``Task.encode`` makes them; soft labels count as their likeliest label.
    """
    if task.problem == "regression":
        return np.abs(finite_logits(task, logits)[:, 0] - np.asarray(targets, dtype=np.float64))
    true = likeliest(targets)
    return 1 - probabilities(task, logits)[np.arange(len(true)), true]


def label_sets(task: Task, logits: np.ndarray, limit: float) -> np.ndarray:
    """Return bool (rows, labels): the labels whose nonconformity is at most `limit`.

    The most probable label is always included, since an empty set says nothing, and sets of an ordinal task have no
    gaps. Both can only raise the coverage.
    """
    likely = probabilities(task, logits)
    sets = 1 - likely <= limit
    sets[np.arange(len(sets)), likely.argmax(axis=1)] = True
    if task.problem == "ordinal":
        sets = np.logical_or.accumulate(sets, axis=1) & np.logical_or.accumulate(sets[:, ::-1], axis=1)[:, ::-1]
    return sets


def number_bounds(task: Task, logits: np.ndarray, limit: float) -> np.ndarray:
    """Return float64 (rows, 2): the prediction of a regression minus and plus `limit`."""
    return finite_logits(task, logits) + np.array([-limit, limit])


def covered(sets: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return bool (rows,): whether the true label, for soft labels the likeliest one, is in the set."""
    true = likeliest(targets)
    return sets[np.arange(len(true)), true]
