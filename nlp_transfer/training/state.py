"""The training state as a snapshot, and back.

The state of random generators is no part of it: a step's random numbers depend on (seed, step, rank), see `seed_step`.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import set_seed
from torch import Tensor, nn

from nlp_transfer.training.checkpoint import Snapshot
from nlp_transfer.training.keeper import Keeper
from nlp_transfer.training.optimizer import MovingAverage, load_parameters
from nlp_transfer.training.passes import Passes
from nlp_transfer.training.sharding import collected, sharded_as
from nlp_transfer.training.zero import ZeroAdamW

_ONE_AT_A_TIME = threading.RLock()  # re-entrant: a run may start others


@dataclass
class Trajectory:
    """The history of a training.

    Attributes:
        steps: optimizer steps done.
        evaluations: the metrics of every evaluation on the validation split, with its "step".
        skipped: the steps that were skipped because loss or gradient was not finite.
        kept_step: the step whose weights were kept.
    """

    steps: int = 0
    evaluations: list[dict[str, float]] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    kept_step: int = 0

    @property
    def skipped_in_a_row(self) -> int:
        """The number of skipped steps since the last step that was not."""
        count = 0
        while count < len(self.skipped) and self.skipped[-1 - count] == self.steps - count:
            count += 1
        return count


@dataclass
class TrainingState:
    """The parts of a training loop that change from step to step.

    Attributes:
        parameters: the trainable parameters, by name.
        optimizer: of the parameters.
        average: their moving average, or None.
        keeper: of the best weights.
        trajectory: the history so far.
        passes: of the loop; None if it has no `Passes`.
        gathered: gathers the model's weights within a block, where they are sharded (see `Sharded`).
    """

    parameters: dict[str, nn.Parameter]
    optimizer: AcceleratedOptimizer
    average: MovingAverage | None
    keeper: Keeper
    trajectory: Trajectory
    passes: Passes | None
    gathered: Callable[[], AbstractContextManager[None]] = nullcontext

    def capture(self) -> Snapshot:
        """Return a snapshot; its tensors are not copied, so it has to be written before the next step.

        Called on all ranks; sharded tensors are gathered on the first rank only.
        """
        inner: Any = self.optimizer.optimizer
        states: Mapping[Any, Any] = inner.moments() if isinstance(inner, ZeroAdamW) else inner.state
        moments: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            for key, value in states.get(parameter, {}).items():
                moments[f"{key}/{name}"] = value
        tensors: dict[str, dict[str, Tensor]] = {"model": dict(self.parameters), "optimizer": moments}
        if self.average:
            tensors["average"] = self.average.average
        if self.keeper.weights:
            tensors["kept"] = self.keeper.weights
        scaler = self.optimizer.scaler
        state = {
            "keeper": self.keeper.state(),
            "evaluations": self.trajectory.evaluations,
            "skipped": self.trajectory.skipped,
            "halved_to": self.passes.halved_to if self.passes else None,
            "averaged": self.average.updates if self.average else 0,
            "scaler": scaler.state_dict() if scaler else None,
        }
        whole = {stem: collected(named) for stem, named in tensors.items()}
        return Snapshot(step=self.trajectory.steps, state=state, tensors=whole)

    def restore(self, snapshot: Snapshot) -> None:
        """Restore a snapshot of the same run.

        Raises:
            KeyError: for a snapshot of other parameters.
        """
        state, tensors = snapshot.state, snapshot.tensors
        load_parameters(self.parameters, tensors["model"])
        if self.passes and self.passes.working:
            self.passes.working.refresh()
        inner: Any = self.optimizer.optimizer
        states: dict[nn.Parameter, dict[str, Tensor]] = {}
        for entry, value in tensors["optimizer"].items():
            key, _, name = entry.partition("/")
            states.setdefault(self.parameters[name], {})[key] = value
        if isinstance(inner, ZeroAdamW):
            inner.resume(states)
        else:
            for parameter, values in states.items():  # moments are placed like the parameter; "step" is a scalar
                inner.state[parameter] = {
                    key: sharded_as(value, parameter) if value.dim() else value.to(parameter.device)
                    for key, value in values.items()
                }
        if self.average:
            self.average.updates = state["averaged"]
            for name, value in tensors["average"].items():
                self.average.average[name].copy_(sharded_as(value, self.parameters[name]))
        kept = {name: sharded_as(value, self.parameters[name]) for name, value in tensors.get("kept", {}).items()}
        self.keeper.load(state["keeper"], kept)
        self.trajectory.steps = snapshot.step
        self.trajectory.evaluations = list(state["evaluations"])
        self.trajectory.skipped = list(state["skipped"])
        if self.passes and state["halved_to"]:  # dropout depends on how a step is cut into passes
            self.passes.halved_to = state["halved_to"]
        if self.optimizer.scaler:
            self.optimizer.scaler.load_state_dict(state["scaler"])


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Preserve the caller's random generators, which a run seeds; in the block gradients are enabled in any case.

    Other threads wait, because the generators, and accelerate's state, are those of the process.
    """
    with _ONE_AT_A_TIME:
        python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  # the global one is the caller's
        with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
            try:
                with torch.inference_mode(mode=False), torch.enable_grad():
                    yield
            finally:
                random.setstate(python)
                np.random.set_state(numpy)  # noqa: NPY002


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed all random generators for a step from these three numbers.

    A resumed run then has the same dropout masks as an uninterrupted one.
    """
    step_seed = int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])
    if torch.accelerator.is_available():
        set_seed(step_seed)
    else:  # the same without torch.manual_seed, which records a stack trace for devices not yet initialised
        random.seed(step_seed)
        np.random.seed(step_seed)  # noqa: NPY002 - the generator that libraries use
        torch.default_generator.manual_seed(step_seed)
