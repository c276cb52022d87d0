r"""Transferability scores of frozen features, without training: LogME, H-score and nearest-neighbour accuracy.

They work on features and targets and cost a few matrix products. Higher means that the features suit the labels better;
LogME is comparable between encoders of different widths.
"""

from __future__ import annotations

import numpy as np

_NEIGHBOURS = 5
_BLOCK = 512  # rows compared at once
_MOST_QUERIES = 4000  # rows whose neighbours are searched, or time would grow quadratically
_STEPS = 30  # of LogME's fixed-point iteration, at most


def logme(features: np.ndarray, targets: np.ndarray) -> float:
    r"""Return the mean log evidence of a Bayesian linear model, per row and output.

    Targets and features are centred. The evidence :math:`p(y \mid F)` has weights drawn from :math:`N(0, \alpha^{-1})`
    and noise :math:`\beta^{-1}`, both maximising it, by MacKay's fixed-point iteration (You et al. 2021, "LogME:
    Practical Assessment of Pre-trained Models for Transfer Learning", ICML). Outputs that are constant, such as a class
    without rows, say nothing about the features and are left out.

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
    eigenvalues, vectors = np.linalg.eigh(f.T @ f if rows > width else f @ f.T)
    eigenvalues = np.maximum(eigenvalues, 0)
    positive = eigenvalues > 1e-10 * max(eigenvalues.max(), 1e-300)
    eigenvalues, vectors = eigenvalues[positive], vectors[:, positive]
    # Targets projected on the left singular vectors of the features.
    projections = (f @ vectors / np.sqrt(eigenvalues) if rows > width else vectors).T @ y
    # Centring used one degree of freedom; otherwise features wider than the rows would explain everything.
    freedom = rows - 1
    evidence = [
        _evidence(eigenvalues, projections[:, output] ** 2, float(y[:, output] @ y[:, output]), freedom, width)
        for output in range(y.shape[1])
    ]
    return float(np.mean(evidence)) / freedom if evidence else 0.0


def _evidence(eigenvalues: np.ndarray, energies: np.ndarray, total: float, freedom: int, width: int) -> float:
    """Return the maximum log evidence of one output.

    Args:
        eigenvalues: the squared singular values of the features.
        energies: the squared projections of the targets on the singular vectors.
        total: the squared norm of the targets.
        freedom: the degrees of freedom.
        width: of the features.
    """
    if not len(eigenvalues):  # the features are constant
        return 0.5 * freedom * float(np.log(freedom / (2 * np.pi * max(total, 1e-300))) - 1)
    outside = max(total - float(energies.sum()), 0.0)
    alpha, beta = 1.0, 1.0
    for _ in range(_STEPS):
        ratio = alpha / beta
        effective = float((eigenvalues / (eigenvalues + ratio)).sum())  # number of parameters
        weight_norm = float((eigenvalues * energies / (eigenvalues + ratio) ** 2).sum())
        residual = float((energies / (1 + eigenvalues / ratio) ** 2).sum()) + outside
        alpha, beta = effective / (weight_norm + 1e-12), (freedom - effective) / (residual + 1e-12)
        if abs(alpha / beta - ratio) <= 1e-4 * ratio:
            break
    zero = width - len(eigenvalues)  # directions without variance
    determinants = width * np.log(alpha) - np.log(alpha + beta * eigenvalues).sum() - zero * np.log(alpha)
    return 0.5 * float(freedom * np.log(beta / (2 * np.pi)) + determinants - beta * residual - alpha * weight_norm)


def h_score(features: np.ndarray, classes: np.ndarray) -> float:
    r"""Return :math:`\operatorname{tr}(\Sigma^{-1} \Sigma_{E[f \mid y]})` with a shrunk covariance of the features.

    The between-class share of the features' variance, summed over directions (Bao et al. 2019, ICIP). Without the
    shrinkage of Ledoit and Wolf (2004), few rows make it arbitrary (Ibrahim et al. 2022, "Newer is not always better",
    ECML PKDD).

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
    """Return the leave-one-out accuracy of a 5-nearest-neighbour classifier by cosine similarity.

    At most 4,000 evenly spaced rows are classified; all rows serve as neighbours.

    Args:
        features: (rows, width).
        classes: int (rows,).
    """
    f = np.asarray(features, dtype=np.float32)
    f = f / np.maximum(np.linalg.norm(f, axis=1, keepdims=True), 1e-12)
    names, numbers = np.unique(classes, return_inverse=True)
    correct, count = 0, min(_NEIGHBOURS, len(f) - 1)
    queries = np.arange(0, len(f), -(-len(f) // _MOST_QUERIES))
    for start in range(0, len(queries), _BLOCK):
        block = queries[start : start + _BLOCK]
        rows = np.arange(len(block))
        cosines = f[block] @ f.T
        cosines[rows, block] = -np.inf
        nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        # Each neighbour has one vote; its cosine breaks ties.
        votes = np.zeros((len(block), len(names)))
        np.add.at(votes, (rows[:, None], numbers[nearest]), 1 + 1e-3 * np.take_along_axis(cosines, nearest, 1))
        correct += int((votes.argmax(1) == numbers[block]).sum())
    return correct / len(queries)
