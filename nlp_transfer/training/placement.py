"""Preparing a step for training: in the model itself, in a bfloat16 copy, or sharded over the ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import broadcast
from torch import nn

from nlp_transfer.settings import TrainingSettings
from nlp_transfer.strategies import Group
from nlp_transfer.training.bfloat16 import WorkingCopy
from nlp_transfer.training.optimizer import build_optimizer
from nlp_transfer.training.sharding import Sharded, is_sharding
from nlp_transfer.training.zero import ZeroAdamW, shards_moments


@dataclass(frozen=True)
class Placed:
    """A step prepared for training.

    Attributes:
        accelerator: that prepared it.
        module: runs the forward and backward passes; called as the step is.
        trained: holds the parameters that the optimizer updates.
        optimizer: of these parameters.
        working: the bfloat16 copy that `module` is, or None.
        sharded: the sharded copy that `module` is, or None.
    """

    accelerator: Accelerator
    module: nn.Module
    trained: nn.Module
    optimizer: AcceleratedOptimizer
    working: WorkingCopy | None = None
    sharded: Sharded | None = None

    def gathered(self) -> AbstractContextManager[None]:
        """Gather the weights of the step within a block."""
        return self.sharded.gathered() if self.sharded else nullcontext()

    def release(self) -> None:
        """Gather the weights of the step for good, and free what was made to train it."""
        if self.sharded:
            self.sharded.restore_weights()
        inner: Any = self.optimizer.optimizer
        if isinstance(inner, ZeroAdamW):
            inner.release()
        release_prepared(self.accelerator, self.module, self.optimizer)


def place(
    accelerator: Accelerator,
    step: nn.Module,
    groups: Sequence[Group],
    settings: TrainingSettings,
    make_copy: Callable[[nn.Module], WorkingCopy] | None,
) -> Placed:
    """Prepare a step for training, with the same weights on every rank.

    Args:
        accelerator: ranks, device and precision.
        step: maps a batch to its loss.
        groups: the trainable parameters.
        settings: the `training` group.
        make_copy: makes the bfloat16 copy in which passes run; None: they run in the step itself.
    """
    _broadcast_trainable(step)
    if is_sharding(accelerator):
        sharded = Sharded(step, accelerator)
        optimizer = accelerator.prepare_optimizer(build_optimizer(sharded.groups(groups), settings))
        return Placed(accelerator, sharded.module, sharded.module, optimizer, sharded=sharded)
    working = make_copy(step) if make_copy else None
    if shards_moments(accelerator):  # the optimizer reduces the gradients, not DDP in a pass
        module = accelerator.prepare_model(working.module if working else step, evaluation_mode=True)
        zero: Any = ZeroAdamW(build_optimizer(groups, settings), settings.max_grad_norm, working)
        return Placed(accelerator, module, step, accelerator.prepare_optimizer(zero, device_placement=False), working)
    module, optimizer = accelerator.prepare(
        working.module if working else step, build_optimizer(groups, settings, working.copies if working else None)
    )
    return Placed(accelerator, module, step, optimizer, working)


def release_prepared(accelerator: Accelerator, *parts: Any) -> None:
    """Drop the accelerator's references to what it prepared for a finished training: copies and moments.

    `Accelerator.free_memory` would drop those of others, too, and collect garbage for a fifth of a second.
    """
    for prepared in (accelerator._models, accelerator._optimizers):
        prepared[:] = [item for item in prepared if not any(item is part for part in parts)]


def _broadcast_trainable(step: nn.Module) -> None:
    """Give every rank the trainable parameters of the first, for each has fitted a head of its own."""
    for parameter in step.parameters():
        if parameter.requires_grad:
            parameter.data.copy_(broadcast(parameter.data))
