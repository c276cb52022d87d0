"""Confidence intervals of paired differences."""

from __future__ import annotations

import numpy as np


def paired_difference(differences: np.ndarray, digits: int = 3) -> str:
    """Format the mean of paired differences with its 95 % interval by Student's t; a single pair has no interval."""
    from scipy import stats

    mean, count = differences.mean(), len(differences)
    if count < 2:
        return f"{mean:+.{digits}f}"
    half = float(stats.t.ppf(0.975, count - 1)) * differences.std(ddof=1) / np.sqrt(count)
    return f"{mean:+.{digits}f} [{mean - half:+.{digits}f}, {mean + half:+.{digits}f}]"
