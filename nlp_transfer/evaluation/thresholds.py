r"""Multi-label decision thresholds that maximise F1; works on logits and targets.

A threshold of one half minimises the number of mistakes. F1 penalises false positives less than missed labels: its
optimal threshold is half of the best attainable F1 (Lipton et al. 2014, "Optimal Thresholding of Classifiers to
Maximize F1", ECML PKDD).
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
_DEFAULT = 0.5
_LEAST, _MOST = 1e-4, 1 - 1e-4


def expected(task: Task, logits: np.ndarray, weights: np.ndarray, *, metric: str) -> Threshold:
    r"""Return the threshold that maximises the expected F1 under calibrated probabilities.

    With the rows' probabilities p in descending order, giving the label to the first k has an F1 of about
    :math:`2 \sum_{i \le k} p_i / (k + \sum_i p_i)`, the ratio of the expectations. Targets are not used, so labels with
    two or three positive rows do not cause overfitting: on goemotions, one such threshold per label is better than
    those with the best F1 on the validation rows.

    Args:
        task: multi_label.
        logits: (rows, labels), calibrated.
        weights: (rows,).
        metric: micro_f1: one threshold for all labels; macro_f1: one for each; any other: 0.5.
    """
    likely = probabilities(task, logits)
    return _maximise_f1(likely, likely, weights, metric)


def empirical(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray, *, metric: str) -> Threshold:
    """Return the threshold with the largest F1 on labelled rows, for uncalibrated probabilities.

    Args:
        task: multi_label.
        logits: (rows, labels).
        targets: (rows, labels).
        weights: (rows,).
        metric: see `expected`.
    """
    return _maximise_f1(probabilities(task, logits), label_shares(task, targets).toarray(), weights, metric)


def _maximise_f1(likely: np.ndarray, truth: np.ndarray, weights: np.ndarray, metric: str) -> Threshold:
    """Return the best threshold, or one per label for macro F1; `truth` holds labels or their probabilities."""
    masses = np.broadcast_to(np.asarray(weights, dtype=np.float64)[:, None], likely.shape)
    if metric == "micro_f1":
        return _best_threshold(likely.ravel(), truth.ravel(), masses.ravel())
    if metric == "macro_f1":
        return tuple(_best_threshold(*columns) for columns in zip(likely.T, truth.T, masses.T, strict=True))
    return _DEFAULT


def _best_threshold(likely: np.ndarray, truth: np.ndarray, masses: np.ndarray) -> float:
    """Return the threshold with the largest F1, midway between two neighbouring probabilities."""
    order = np.argsort(-likely, kind="stable")
    p, mass = likely[order], masses[order]
    hits = np.cumsum(truth[order] * mass)
    if not len(p) or not hits[-1] > 0:
        return _DEFAULT
    f1 = 2 * hits / (np.cumsum(mass) + hits[-1])
    f1[:-1][p[1:] == p[:-1]] = -1  # no threshold separates rows of equal probability
    last = int(f1.argmax())
    below = p[last + 1] if last + 1 < len(p) else 0.0
    return float(np.clip((p[last] + below) / 2, _LEAST, _MOST))


def scale_and_threshold(
    task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray, *, metric: str
) -> tuple[float, Threshold]:
    """Return the temperature of a model, and the threshold for its calibrated outputs.

    Args:
        task: multi_label.
        logits: (rows, labels), of rows that the model was not trained on.
        targets: (rows, labels).
        weights: (rows,).
        metric: see `expected`.
    """
    scale = temperature(task, logits, targets, weights)
    return scale, expected(task, logits / scale, weights, metric=metric)


def uncalibrated(threshold: Threshold, scale: float) -> Threshold:
    """Return the threshold that gives the same labels to outputs that are not divided by the temperature `scale`."""
    from scipy.special import expit, logit

    raw = np.clip(expit(scale * logit(np.asarray(threshold))), _LEAST, _MOST)
    return float(raw) if raw.ndim == 0 else tuple(map(float, raw))
