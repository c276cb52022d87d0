"""AdamW over the strategy's parameter groups, gradient clipping, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from nlp_transfer.settings import TrainingSettings
from nlp_transfer.strategies import Group
from nlp_transfer.training.copied_adamw import CopiedAdamW
from nlp_transfer.training.schedules import rate
from nlp_transfer.training.sharding import in_one_piece, sharded_as
from nlp_transfer.training.zero import ZeroAdamW


def build_optimizer(
    groups: Sequence[Group], settings: TrainingSettings, copies: Mapping[nn.Parameter, nn.Parameter] | None = None
) -> torch.optim.AdamW:
    """Return AdamW with two parameter groups per strategy group: only matrices get weight decay, not biases and scales.

    The peak learning rate and the wake of a group are kept under `peak` and `wake`, for `set_rates`.

    Args:
        groups: the trainable parameters.
        settings: the `training` group.
        copies: from parameters to the copies in which the passes run; None: they run in the parameters themselves.
    """
    parameter_groups = []
    for group in groups:
        for has_decay in (True, False):
            parameters = [p for p in group.parameters.values() if (p.dim() > 1) is has_decay]
            if parameters:
                decay = settings.weight_decay if has_decay else 0.0
                parameter_groups.append(
                    {"params": parameters, "weight_decay": decay, "peak": group.lr, "wake": group.wake, "lr": 0.0}
                )
    betas = (settings.betas[0], settings.betas[1])
    if copies is not None:
        return CopiedAdamW(parameter_groups, copies, betas=betas, eps=settings.epsilon)
    # Fused is 3 to 10 times as fast as the foreach and for-loop variants, on CPU as on GPU.
    return torch.optim.AdamW(parameter_groups, betas=betas, eps=settings.epsilon, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, settings: TrainingSettings, progress: float) -> None:
    """Set every group's learning rate for a progress in [0, 1)."""
    for group in optimizer.param_groups:
        share = rate(settings.schedule, progress, warmup=settings.warmup, wake=group["wake"])
        group["lr"] = group["peak"] * share


def clip(accelerator: Accelerator, optimizer: AcceleratedOptimizer, max_norm: float) -> float:
    """Clip the gradients of the next step to a norm of `max_norm`; return their norm before.

    Args:
        accelerator: ranks and precision.
        optimizer: of `build_optimizer`, prepared, or sharded.
        max_norm: 0: no clipping.
    """
    inner: Any = optimizer.optimizer
    if isinstance(inner, ZeroAdamW):
        return inner.clip()
    parameters = awake(inner)
    if isinstance(inner, CopiedAdamW):
        return inner.clip(parameters, max_norm or math.inf)
    return float(in_one_piece(accelerator.clip_grad_norm_(parameters, max_norm or math.inf)))


def awake(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Return the parameters whose learning rate is above zero, and clear the gradients of the others.

    A group that is not trained yet must neither add to the gradient norm nor start the optimizer's moments. Gradients
    in copies are not cleared; `CopiedAdamW` skips such groups.
    """
    parameters: list[nn.Parameter] = []
    for group in optimizer.param_groups:
        if group["lr"] > 0:
            parameters += group["params"]
        else:
            for parameter in group["params"]:
                parameter.grad = None
    return parameters


class MovingAverage:
    """Exponential moving average of the trainable parameters.

    The decay grows as (1 + t) / (10 + t) up to its value, so that the initial weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}

    def update(self) -> None:
        """Update the average after an optimizer step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, parameter in self.parameters.items():
            self.average[name].lerp_(parameter.detach(), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Swap the average into the model within the block."""
        current = {name: p.detach().clone() for name, p in self.parameters.items()}
        load_parameters(self.parameters, self.average)
        try:
            yield
        finally:
            load_parameters(self.parameters, current)


def load_parameters(parameters: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    """Copy values into parameters in place, for the optimizer and wrappers refer to them."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(sharded_as(values[name], parameter))
