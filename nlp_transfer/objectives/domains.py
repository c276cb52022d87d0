"""Two domains in a forward pass: labelled texts (the source) and unlabelled ones (the target)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

_STEEPNESS = 10.0  # of the ramp over the run


def sides(batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the weights of the examples in the source and in the target domain.

    Each is float32 (examples,), zero for examples of the other domain.
    """
    weights, source = batch["weights"].float(), (batch["labelled"] > 0).float()
    return weights * source, weights * (1 - source)


def share(weights: Tensor) -> Tensor:
    """Return weights divided by their sum; zeros if it is zero."""
    return weights / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


def several(weights: Tensor) -> Tensor:
    """Return 1 if at least two examples have weight, else 0; as a tensor, so that the device is not synchronised."""
    return ((weights > 0).sum() > 1).to(weights.dtype)


def strength(progress: float) -> float:
    """Return the weight of adaptation at a progress in [0, 1]; it rises from 0 to nearly 1 (Ganin et al. 2016)."""
    return 2 / (1 + math.exp(-_STEEPNESS * progress)) - 1
