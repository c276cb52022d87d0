"""The prototype head: the label with the nearest class mean, as a linear layer."""

from __future__ import annotations

import numpy as np

from nlp_transfer.linear.convex import Head

_RANGE = 1e3  # the scale is searched between 1/_RANGE and _RANGE times the inverse mean distance


def fit_prototypes(features: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> Head:
    r"""Return the linear layer whose logits are :math:`-s |x - \mu_c|^2`, up to a constant that all labels share.

    With :math:`\mu_c` the mean features of a label these are :math:`s (2 \mu_c \cdot x - |\mu_c|^2)` (Mensink et al.
    2013, "Distance-based image classification", TPAMI 35; Snell, Swersky and Zemel 2017, arXiv 1703.05175). The scale s
    minimises the leave-one-out log-loss: if a row has the share :math:`a` of a mean, its squared distance to the mean
    of the other rows is :math:`|x - \mu|^2 / (1 - a)^2`. The only row of a label cannot be left out; if there are only
    such rows, s is the inverse mean squared distance between the means.

    Args:
        features: (examples, width).
        targets: distributions over the labels, float (examples, labels), each label somewhere above zero.
        weights: (examples,), not all zero.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    x, mass = features.astype(np.float64), targets.astype(np.float64) * weights[:, None]
    means = (mass.T @ x) / mass.sum(0)[:, None]
    share = mass / mass.sum(0)
    usable = np.flatnonzero((share < 1 - 1e-9).all(1) & (weights > 0))
    distances = _squared(x[usable], means) / np.square(1 - share[usable])

    def losses(scale: float) -> np.ndarray:
        return logsumexp(-scale * distances, axis=1) + scale * (targets[usable] * distances).sum(1)

    mean_distance = float((distances if len(usable) else _squared(means, means)).mean())
    unit = 1 / max(mean_distance, np.finfo(np.float64).tiny)
    scale, held_out = unit, np.zeros(len(features), np.float32)
    if len(usable):
        best = minimize_scalar(
            lambda power: np.average(losses(unit * np.exp(power)), weights=weights[usable]),
            bounds=(-np.log(_RANGE), np.log(_RANGE)),
            method="bounded",
        )
        scale = unit * float(np.exp(best.x))
        held_out[usable] = losses(scale)
    bias = -scale * np.square(means).sum(1)
    return Head((2 * scale * means).astype(np.float32), bias.astype(np.float32), 0.0, held_out)


def _squared(x: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return the squared distance of every row to every mean, (rows, labels)."""
    squared = np.square(x).sum(1)[:, None] - 2 * x @ means.T + np.square(means).sum(1)
    return np.maximum(squared, 0)
