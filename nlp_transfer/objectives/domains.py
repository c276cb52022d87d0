"""Two domains in one forward pass: the rows, which have labels, and texts that have none."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

_STEEPNESS = 10.0  # of the rise over the run


def sides(batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return what the examples of a pass weigh as texts of the source and as texts of the target domain.

    Either is float32 (examples,), zero for those of the other domain.
    """
    weights, source = batch["weights"].float(), (batch["labelled"] > 0).float()
    return weights * source, weights * (1 - source)


def share(weights: Tensor) -> Tensor:
    """Return weights as shares of their sum; zeros where that is zero."""
    return weights / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


def several(weights: Tensor) -> Tensor:
    """Return 1 where at least two examples weigh anything, else 0; as a tensor, which no device is waited for."""
    return ((weights > 0).sum() > 1).to(weights.dtype)


def strength(progress: float) -> float:
    """Return by how much the other domain counts at a progress in [0, 1]: from 0 to nearly 1 (Ganin et al. 2016)."""
    return 2 / (1 + math.exp(-_STEEPNESS * progress)) - 1
