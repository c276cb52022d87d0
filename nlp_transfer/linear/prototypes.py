"""The head of class means: a text has the label whose mean is nearest to it, which a linear layer says as well.

This file knows features and target distributions, not where they come from.
"""

from __future__ import annotations

import numpy as np

from nlp_transfer.linear.convex import Head

_RANGE = 1e3  # times what makes mean distances 1, and the same part of it: between these the scale is sought


def fit_prototypes(features: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> Head:
    r"""Return the linear layer whose logits are :math:`-s |x - \mu_c|^2`, but for a number that all labels share.

    With :math:`\mu_c` the mean features of a label these are :math:`s (2 \mu_c \cdot x - |\mu_c|^2)` (Mensink et al.
    2013, "Distance-based image classification", TPAMI 35; Snell, Swersky and Zemel 2017, arXiv 1703.05175). The scale s
    is the one with the least log-loss where every row is left out of the means: with the share :math:`a` that it has
    of a mean its squared distance to what is left of that is :math:`|x - \mu|^2 / (1 - a)^2`. Rows that are all there
    is of a label say nothing of it; where there are only such, labels are on average one unit apart.

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
    known = np.flatnonzero((share < 1 - 1e-9).all(1) & (weights > 0))
    far = _squared(x[known], means) / np.square(1 - share[known])

    def losses(scale: float) -> np.ndarray:
        return logsumexp(-scale * far, axis=1) + scale * (targets[known] * far).sum(1)

    unit = 1 / max(float((far if len(known) else _squared(means, means)).mean()), np.finfo(np.float64).tiny)
    scale, held_out = unit, np.zeros(len(features), np.float32)
    if len(known):
        found = minimize_scalar(
            lambda power: np.average(losses(unit * np.exp(power)), weights=weights[known]),
            bounds=(-np.log(_RANGE), np.log(_RANGE)),
            method="bounded",
        )
        scale = unit * float(np.exp(found.x))
        held_out[known] = losses(scale)
    bias = -scale * np.square(means).sum(1)
    return Head((2 * scale * means).astype(np.float32), bias.astype(np.float32), 0.0, held_out)


def _squared(x: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return the squared distance of every row to every mean, (rows, labels)."""
    far = np.square(x).sum(1)[:, None] - 2 * x @ means.T + np.square(means).sum(1)
    return np.maximum(far, 0)
