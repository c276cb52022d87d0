r"""From which probability a label is given, where a row may have several: chosen for the F1 that decides.

At one half a label is given where it is likelier than not, which makes fewest mistakes. F1 forgives labels that are
given too often more than labels that are missed: its best threshold is half of the best F1 that can be had (Lipton et
al. 2014, "Optimal Thresholding of Classifiers to Maximize F1", ECML PKDD). Knows logits and targets; no model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.evaluation.calibration import temperature
from nlp_transfer.evaluation.decisions import probabilities
from nlp_transfer.evaluation.sums import label_shares

if TYPE_CHECKING:
    from nlp_transfer.data.task import Task

Threshold = float | tuple[float, ...]
_USUAL = 0.5
_LEAST, _MOST = 1e-4, 1 - 1e-4


def expected(task: Task, logits: np.ndarray, weights: np.ndarray, *, metric: str) -> Threshold:
    r"""Return the threshold at which F1 will be about largest, if probabilities mean what they say.

    With the rows' probabilities p in falling order, giving the label to the first k has an F1 of about
    :math:`2 \sum_{i \le k} p_i / (k + \sum_i p_i)`, the ratio of the expectations. No target is looked at, so that few
    rows, of which a label has two or three, do not lead it astray: on goemotions one a label is better than those that
    are best on the validation rows themselves.

    Args:
        task: multi_label.
        logits: (rows, labels), calibrated.
        weights: (rows,).
        metric: micro_f1: one threshold for all labels; macro_f1: one for each; any other: 0.5.
    """
    likely = probabilities(task, logits)
    return _chosen(likely, likely, weights, metric)


def measured(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray, *, metric: str) -> Threshold:
    """Return the threshold at which F1 was largest on rows, for probabilities that mean nothing by themselves.

    Args:
        task: multi_label.
        logits: (rows, labels).
        targets: (rows, labels).
        weights: (rows,).
        metric: see `expected`.
    """
    return _chosen(probabilities(task, logits), label_shares(task, targets).toarray(), weights, metric)


def _chosen(likely: np.ndarray, worth: np.ndarray, weights: np.ndarray, metric: str) -> Threshold:
    masses = np.broadcast_to(np.asarray(weights, dtype=np.float64)[:, None], likely.shape)
    if metric == "micro_f1":
        return _best(likely.ravel(), worth.ravel(), masses.ravel())
    if metric == "macro_f1":
        return tuple(_best(*columns) for columns in zip(likely.T, worth.T, masses.T, strict=True))
    return _USUAL


def _best(likely: np.ndarray, worth: np.ndarray, masses: np.ndarray) -> float:
    """Return the threshold that gives a label to the rows that make F1 largest, midway to the next probability."""
    order = np.argsort(-likely, kind="stable")
    p, mass = likely[order], masses[order]
    gained = np.cumsum(worth[order] * mass)
    if not len(p) or not gained[-1] > 0:
        return _USUAL
    f1 = 2 * gained / (np.cumsum(mass) + gained[-1])
    f1[:-1][p[1:] == p[:-1]] = -1  # rows of one probability get the label together
    last = int(f1.argmax())
    below = p[last + 1] if last + 1 < len(p) else 0.0
    return float(np.clip((p[last] + below) / 2, _LEAST, _MOST))


def scale_and_threshold(
    task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray, *, metric: str
) -> tuple[float, Threshold]:
    """Return the temperature of a model, and the threshold for its outputs when they are divided by that.

    Args:
        task: multi_label.
        logits: (rows, labels), of rows that taught the model nothing.
        targets: (rows, labels).
        weights: (rows,).
        metric: see `expected`.
    """
    found = temperature(task, logits, targets, weights)
    return found, expected(task, logits / found, weights, metric=metric)


def undivided(rule: Threshold, scale: float) -> Threshold:
    """Return the threshold that gives the same labels where outputs are not divided by the temperature."""
    from scipy.special import expit, logit

    raw = np.clip(expit(scale * logit(np.asarray(rule))), _LEAST, _MOST)
    return float(raw) if raw.ndim == 0 else tuple(map(float, raw))
