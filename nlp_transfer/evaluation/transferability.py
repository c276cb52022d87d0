r"""How much of a label frozen features tell, without training on them: scores that cost a few products of matrices.

They know features and targets, no encoder. All of them are higher where features suit the labels better; LogME compares
encoders of any width.
"""

from __future__ import annotations

import numpy as np

_NEIGHBOURS = 5
_BLOCK = 512  # rows compared at once
_ASKED = 4000  # rows whose neighbours are sought at most; or the time would grow as their square
_STEPS = 30  # of LogME, which takes a few


def logme(features: np.ndarray, targets: np.ndarray) -> float:
    r"""Return the mean log evidence of a Bayesian linear model, a row and an output.

    Targets and features count from their means. The evidence :math:`p(y \mid F)` has weights drawn from
    :math:`N(0, \alpha^{-1})` and noise :math:`\beta^{-1}`, both chosen to make it largest by MacKay's fixed point (You
    et al. 2021, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning", ICML). An output that
    is the same for every row, such as a class that none has, tells nothing of the features and does not count.

    Args:
        features: (rows, width).
        targets: (rows, outputs): one-hot or several labels as 0 and 1, or numbers.
    """
    f = np.asarray(features, dtype=np.float64)
    f = f - f.mean(0)
    y = np.asarray(targets, dtype=np.float64)
    y = y[:, np.ptp(y, axis=0) > 0]
    y = y - y.mean(0)
    rows, width = f.shape
    moments, turn = np.linalg.eigh(f.T @ f if rows > width else f @ f.T)
    moments = np.maximum(moments, 0)
    kept = moments > 1e-10 * max(moments.max(), 1e-300)
    moments, turn = moments[kept], turn[:, kept]
    # Squared shares of the targets along the left singular vectors of the features.
    along = (f @ turn / np.sqrt(moments) if rows > width else turn).T @ y
    # A mean was taken away; without that, features wider than the rows would tell everything for certain.
    free = rows - 1
    evidence = [
        _evidence(moments, along[:, output] ** 2, float(y[:, output] @ y[:, output]), free, width)
        for output in range(y.shape[1])
    ]
    return float(np.mean(evidence)) / free if evidence else 0.0


def _evidence(moments: np.ndarray, along: np.ndarray, total: float, rows: int, width: int) -> float:
    """Return the largest log evidence of one output."""
    if not len(moments):  # the features are constant
        return 0.5 * rows * float(np.log(rows / (2 * np.pi * max(total, 1e-300))) - 1)
    outside = max(total - float(along.sum()), 0.0)
    alpha, beta = 1.0, 1.0
    for _ in range(_STEPS):
        ratio = alpha / beta
        known = float((moments / (moments + ratio)).sum())
        weights = float((moments * along / (moments + ratio) ** 2).sum())
        missed = float((along / (1 + moments / ratio) ** 2).sum()) + outside
        alpha, beta = known / (weights + 1e-12), (rows - known) / (missed + 1e-12)
        if abs(alpha / beta - ratio) <= 1e-4 * ratio:
            break
    size = width * np.log(alpha) - np.log(alpha + beta * moments).sum() - (width - len(moments)) * np.log(alpha)
    return 0.5 * float(rows * np.log(beta / (2 * np.pi)) + size - beta * missed - alpha * weights)


def h_score(features: np.ndarray, classes: np.ndarray) -> float:
    r"""Return :math:`\operatorname{tr}(\Sigma^{-1} \Sigma_{E[f \mid y]})` with a shrunk covariance of the features.

    The share of the features' spread that lies between the classes, over directions (Bao et al. 2019, ICIP); the
    covariance is shrunk as Ledoit and Wolf (2004) do, without which few rows make it any number (Ibrahim et al. 2022,
    "Newer is not always better", ECML PKDD).

    Args:
        features: (rows, width).
        classes: int (rows,).
    """
    from sklearn.covariance import ledoit_wolf

    f = np.asarray(features, dtype=np.float64)
    f = f - f.mean(0)
    if not f.any():
        return 0.0
    covariance, shrinkage = ledoit_wolf(f, assume_centered=True)
    names, numbers = np.unique(classes, return_inverse=True)
    means = np.stack([f[numbers == name].mean(0) for name in range(len(names))])[numbers]
    between = (1 - shrinkage) * means.T @ means / len(f)
    return float(np.trace(np.linalg.solve(covariance, between)))


def neighbour_accuracy(features: np.ndarray, classes: np.ndarray) -> float:
    """Return how often the most frequent class of a row's five nearest neighbours, by cosine, is its own.

    Of many rows 4,000 are asked at most, evenly spread; all of them are neighbours.

    Args:
        features: (rows, width).
        classes: int (rows,).
    """
    f = np.asarray(features, dtype=np.float32)
    f = f / np.maximum(np.linalg.norm(f, axis=1, keepdims=True), 1e-12)
    names, numbers = np.unique(classes, return_inverse=True)
    right, near = 0, min(_NEIGHBOURS, len(f) - 1)
    asked = np.arange(0, len(f), -(-len(f) // _ASKED))
    for start in range(0, len(asked), _BLOCK):
        own = asked[start : start + _BLOCK]
        alike = f[own] @ f.T
        alike[np.arange(len(alike)), own] = -np.inf
        nearest = np.argpartition(-alike, near - 1, axis=1)[:, :near]
        votes = np.zeros((len(alike), len(names)))
        # A nearer neighbour settles a tie.
        np.add.at(
            votes, (np.arange(len(alike))[:, None], numbers[nearest]), 1 + 1e-3 * np.take_along_axis(alike, nearest, 1)
        )
        right += int((votes.argmax(1) == numbers[own]).sum())
    return right / len(asked)
