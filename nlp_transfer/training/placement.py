"""Where a step is computed and trained: in the model itself, in a copy in bfloat16, or shared out among the ranks."""

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
from nlp_transfer.training.zero import ZeroAdamW, shares_moments


@dataclass(frozen=True)
class Placed:
    """A step in its place, prepared.

    Attributes:
        accelerator: that prepared it.
        module: maps what the step does; forward and backward passes run in it.
        trained: holds the parameters that are trained.
        optimizer: that trains them.
        working: the copy in bfloat16 that `module` is, or None.
        sharded: the copy that `module` is, where the ranks share it out, or None.
    """

    accelerator: Accelerator
    module: nn.Module
    trained: nn.Module
    optimizer: AcceleratedOptimizer
    working: WorkingCopy | None = None
    sharded: Sharded | None = None

    def gathered(self) -> AbstractContextManager[None]:
        """Let the step have its weights for the time of a block."""
        return self.sharded.gathered() if self.sharded else nullcontext()

    def leave(self) -> None:
        """Let the step have its weights for good, and nobody what else was made to train it."""
        if self.sharded:
            self.sharded.give_back()
        own: Any = self.optimizer.optimizer
        if isinstance(own, ZeroAdamW):
            own.leave()
        let_go(self.accelerator, self.module, self.optimizer)


def place(
    accelerator: Accelerator,
    step: nn.Module,
    groups: Sequence[Group],
    settings: TrainingSettings,
    copied: Callable[[nn.Module], WorkingCopy] | None,
) -> Placed:
    """Put a step where it is trained, the same on every rank; for the arguments see ``training.loop.fit``."""
    _make_equal(step)
    if is_sharding(accelerator):
        sharded = Sharded(step, accelerator)
        optimizer = accelerator.prepare_optimizer(build_optimizer(sharded.groups(groups), settings))
        return Placed(accelerator, sharded.module, sharded.module, optimizer, sharded=sharded)
    working = copied(step) if copied else None
    if shares_moments(accelerator):  # ranks meet in the optimizer, which sums over them, and not in a pass
        module = accelerator.prepare_model(working.module if working else step, evaluation_mode=True)
        own: Any = ZeroAdamW(build_optimizer(groups, settings), settings.max_grad_norm, working)
        return Placed(accelerator, module, step, accelerator.prepare_optimizer(own, device_placement=False), working)
    module, optimizer = accelerator.prepare(
        working.module if working else step, build_optimizer(groups, settings, working.copies if working else None)
    )
    return Placed(accelerator, module, step, optimizer, working)


def let_go(accelerator: Accelerator, *parts: Any) -> None:
    """Let an accelerator forget what it prepared for a training that is over: copies and moments, two models' memory.

    Its own `free_memory` forgets what others have prepared, too, and collects garbage for a fifth of a second.
    """
    for held in (accelerator._models, accelerator._optimizers):
        held[:] = [each for each in held if not any(each is part for part in parts)]


def _make_equal(step: nn.Module) -> None:
    """Give every rank what learns as the first has it, for each has solved a head of its own."""
    for parameter in step.parameters():
        if parameter.requires_grad:
            parameter.data.copy_(broadcast(parameter.data))
