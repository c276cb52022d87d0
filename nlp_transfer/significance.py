"""Whether one mean is below another by more than chance explains."""

from __future__ import annotations

import numpy as np


def is_lower(losses: np.ndarray, others: np.ndarray, weights: np.ndarray, *, errors: float = 1.0) -> bool:
    """Return whether the mean of losses is lower by more than so many standard errors of the difference.

    Args:
        losses: (examples,).
        others: (examples,), of the same examples.
        weights: (examples,), not all zero.
        errors: standard errors.
    """
    share = weights.astype(np.float64) / weights.sum(dtype=np.float64)
    gain = others - losses
    mean = float(share @ gain)
    return mean > errors * float(np.sqrt(np.square(share) @ np.square(gain - mean)))
