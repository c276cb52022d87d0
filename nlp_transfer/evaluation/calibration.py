"""Whether probabilities mean what they say: how far they are off, and the one number that mends it best.

Knows logits, targets and the task; neither models nor files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.evaluation.decisions import decide, finite_logits, probabilities
from nlp_transfer.evaluation.sums import label_shares, row_losses

if TYPE_CHECKING:
    from nlp_transfer.data.task import Task

_BINS = 15
_SPREAD = 0.5  # standard deviation of the logarithm of a temperature before any row was seen: few rows move it little
_FARTHEST = 3.0  # of that logarithm from zero: a factor of twenty


def temperature(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    r"""Return the number :math:`T` by which dividing the logits makes the targets most plausible.

    .. math:: \min_T \sum_i v_i \left(n \, \ell(z_i / T, y_i) + \ell(z_i / T, u)\right) + \frac{\log^2 T}{2 \cdot 0.5^2}

    with :math:`v_i` the share of row i in all weight and :math:`n` the number of rows. That is temperature scaling (Guo
    et al. 2017, "On Calibration of Modern Neural Networks", ICML) with a log-normal prior around 1, as if one more row
    had been seen whose label :math:`u` is any of them alike: no error among n rows is not none among all. No decision
    changes by it, except for a multi-label threshold that is not 0.5.

    Args:
        task: the task; of a regression nothing is scaled: 1.
        logits: (rows, outputs), of rows that taught the model nothing.
        targets: as ``Task.encode`` makes them.
        weights: (rows,), their sum positive.
    """
    from scipy.optimize import minimize_scalar

    if task.problem == "regression":
        return 1.0
    logits = finite_logits(task, logits)
    share = np.asarray(weights, dtype=np.float64) / np.sum(weights, dtype=np.float64)
    truth = targets.astype(np.float64) if targets.dtype.kind == "f" else targets
    any_label = np.full(logits.shape, 0.5 if task.problem == "multi_label" else 1 / logits.shape[1])

    def cost(logarithm: float) -> float:
        scaled = logits / np.exp(logarithm)
        losses = len(logits) * row_losses(task, scaled, truth) + row_losses(task, scaled, any_label)
        return float(share @ losses + logarithm**2 / (2 * _SPREAD**2))

    found = minimize_scalar(cost, bounds=(-_FARTHEST, _FARTHEST), method="bounded")
    return float(np.exp(found.x))


def calibration_error(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    r"""Return the expected calibration error: by how much stated and true frequencies differ on average, 0 to 1.

    .. math:: \sum_b \frac{\left|\sum_{i \in b} w_i \, (p_i - y_i)\right|}{\sum_i w_i}

    over 15 bins :math:`b` of equal width (Naeini et al. 2015; Guo et al. 2017): :math:`p` is the highest probability
    and :math:`y` whether its label is right; multi_label: every label of every row counts, with its own probability.
    It is never less than what chance makes of so many rows. nan without rows, and for regression.
    """
    if task.problem == "regression" or not np.sum(weights) > 0:
        return np.nan
    likely, shares = probabilities(task, logits), label_shares(task, targets).toarray()
    if task.problem == "multi_label":
        stated, true = likely, shares
    else:
        rows, chosen = np.arange(len(likely)), decide(task, logits)
        stated, true = likely[rows, chosen, None], shares[rows, chosen, None]
    counted = np.broadcast_to(np.asarray(weights, dtype=np.float64)[:, None], stated.shape).ravel()
    bins = np.clip(np.ceil(stated.ravel() * _BINS).astype(np.int64) - 1, 0, _BINS - 1)
    gaps = np.bincount(bins, weights=counted * (stated - true).ravel(), minlength=_BINS)
    return float(np.abs(gaps).sum() / counted.sum())
