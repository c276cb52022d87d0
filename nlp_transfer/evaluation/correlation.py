"""Weighted Pearson and Spearman correlations of many bootstrap samples at once."""

from __future__ import annotations

import numpy as np


def pearson(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return Pearson's coefficient of every set of rows, (sets,); nan where one variable is constant.

    Args:
        first: (rows,).
        second: likewise.
        weights: (rows, sets): how often a row occurs in each set.
    """
    return _correlation(first[:, None], second[:, None], weights)


def spearman(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return Spearman's coefficient of every set of rows: Pearson's of the ranks within the set; see `pearson`."""
    return _correlation(_ranks(first, weights), _ranks(second, weights), weights)


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the rank of every row within each set of rows, (rows, sets); ties share the middle rank.

    Args:
        values: (rows,).
        weights: (rows, sets): how often a row occurs in each set.
    """
    from scipy.sparse import csr_array

    distinct, group = np.unique(values, return_inverse=True)
    member = csr_array((np.ones(len(values)), (group, np.arange(len(values)))), shape=(len(distinct), len(values)))
    mass = member @ weights
    return (np.cumsum(mass, axis=0) - mass / 2)[group]


def _correlation(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return Pearson's coefficient of every set of rows; nan where one variable is constant.

    Args:
        first: (rows, sets), or (rows, 1) if all sets share the values.
        second: likewise.
        weights: (rows, sets): how often a row occurs in each set.
    """
    total = weights.sum(axis=0)
    deviations, spreads = [], []
    for values in (first, second):
        # Subtracting the median makes a constant exactly zero, so that rounding is not mistaken for variance.
        shifted = values - np.sort(values, axis=0)[len(values) // 2]
        deviation = shifted - (weights * shifted).sum(axis=0) / total
        spread = (weights * deviation**2).sum(axis=0)
        rounding = total * (1e-12 * np.abs(shifted).max(axis=0)) ** 2
        deviations.append(deviation)
        spreads.append(np.where(spread > rounding, spread, np.nan))
    return (weights * deviations[0] * deviations[1]).sum(axis=0) / np.sqrt(spreads[0] * spreads[1])
