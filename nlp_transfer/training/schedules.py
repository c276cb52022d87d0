"""Learning-rate schedules: pure functions of progress, so that resuming needs no state of theirs."""

from __future__ import annotations

import math
from collections.abc import Callable


def linear(progress: float) -> float:
    """Fall linearly from 1 to 0."""
    return 1 - progress


def cosine(progress: float) -> float:
    """Fall from 1 to 0 along half a cosine (Loshchilov and Hutter 2017, arXiv 1608.03983)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def constant(progress: float) -> float:
    """Stay at 1."""
    return 1.0


def one_cycle(progress: float) -> float:
    """Rise from 1/25 to 1 over the first 30 %, then fall to 0, along half cosines (Smith 2018, arXiv 1803.09820)."""
    if progress < 0.3:
        return 1 - (1 - 1 / 25) * cosine(progress / 0.3)
    return cosine((progress - 0.3) / 0.7)


def slanted_triangular(progress: float) -> float:
    """Rise from 1/32 to 1 over the first 10 %, then fall back (Howard and Ruder 2018, arXiv 1801.06146)."""
    height = progress / 0.1 if progress < 0.1 else 1 - (progress - 0.1) / 0.9
    return (1 + height * 31) / 32


SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": linear,
    "cosine": cosine,
    "constant": constant,
    "one_cycle": one_cycle,
    "slanted_triangular": slanted_triangular,
}
SELF_WARMING = frozenset({"one_cycle", "slanted_triangular"})  # they include a warm-up; `warmup` does not apply


def rate(schedule: str, progress: float, *, warmup: float, wake: float = 0.0) -> float:
    """Return the share of the peak learning rate at some progress.

    Args:
        schedule: a key of `SCHEDULES`.
        progress: share of the run's optimizer steps that are done, in [0, 1).
        warmup: share of the run over which the rate first rises linearly.
        wake: share of the run up to which the group is not trained (rate 0); its schedule fills the rest.
    """
    if progress < wake:
        return 0.0
    progress = (progress - wake) / (1 - wake)
    if schedule in SELF_WARMING or warmup == 0:
        return SCHEDULES[schedule](progress)
    if progress < warmup:
        return progress / warmup
    return SCHEDULES[schedule]((progress - warmup) / (1 - warmup))
