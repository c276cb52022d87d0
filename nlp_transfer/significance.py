"""A paired test of whether one mean loss is lower than another."""

from __future__ import annotations

import numpy as np


def is_lower(losses: np.ndarray, others: np.ndarray, weights: np.ndarray, *, errors: float = 1.0) -> bool:
    """Return whether the weighted mean of `losses` is below that of `others` by more than chance explains.

    Args:
        losses: (examples,).
        others: (examples,), of the same examples.
        weights: (examples,), not all zero.
        errors: how many standard errors of the difference the means must be apart.
    """
    share = weights.astype(np.float64) / weights.sum(dtype=np.float64)
    gain = others - losses
    mean = float(share @ gain)
    return mean > errors * float(np.sqrt(np.square(share) @ np.square(gain - mean)))
