"""All that the next optimizer step depends on, as a snapshot and back.

Random numbers are no part of it: what a step draws is a function of (seed, step, rank), see `seed_step`.
"""

from __future__ import annotations

import random
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
from nlp_transfer.training.sharding import collected, shared_as
from nlp_transfer.training.zero import ZeroAdamW


@dataclass
class Trajectory:
    """What happened: how many steps, the evaluations, and which weights were kept.

    Attributes:
        steps: optimizer steps done.
        evaluations: metrics with `step` of every evaluation on the validation split.
        skipped: steps at which loss or gradient was not finite; they changed nothing.
        kept_step: the step whose weights the model holds now.
    """

    steps: int = 0
    evaluations: list[dict[str, float]] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    kept_step: int = 0

    @property
    def skipped_in_a_row(self) -> int:
        """How many of the last steps were skipped, without one between that was not."""
        return next((n for n in range(len(self.skipped)) if self.skipped[-1 - n] != self.steps - n), len(self.skipped))


@dataclass
class TrainingState:
    """The parts of a loop that change from step to step.

    Attributes:
        parameters: that are trained, by name.
        optimizer: that trains them.
        average: of them, or None.
        keeper: of the best of them.
        trajectory: what happened so far.
        passes: of the loop, or None where it has others.
        gathered: gives the model its weights for the time of a block, where ranks share them out (see `Sharded`).
    """

    parameters: dict[str, nn.Parameter]
    optimizer: AcceleratedOptimizer
    average: MovingAverage | None
    keeper: Keeper
    trajectory: Trajectory
    passes: Passes | None
    gathered: Callable[[], AbstractContextManager[None]] = nullcontext

    def capture(self) -> Snapshot:
        """Return a snapshot; its tensors are those in use, to be written before the next step.

        All ranks do it together; where they share the tensors out, the first alone has them.
        """
        own: Any = self.optimizer.optimizer
        states: Mapping[Any, Any] = own.moments() if isinstance(own, ZeroAdamW) else own.state
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
        """Put a snapshot of the same run back.

        Raises:
            KeyError: for a snapshot of other parameters.
        """
        state, tensors = snapshot.state, snapshot.tensors
        load_parameters(self.parameters, tensors["model"])
        if self.passes and self.passes.working:
            self.passes.working.refresh()
        own: Any = self.optimizer.optimizer
        states: dict[nn.Parameter, dict[str, Tensor]] = {}
        for entry, value in tensors["optimizer"].items():
            key, _, name = entry.partition("/")
            states.setdefault(self.parameters[name], {})[key] = value
        if isinstance(own, ZeroAdamW):
            own.go_on(states)
        else:
            for parameter, values in states.items():  # like it are its moments; how many there were is a number
                own.state[parameter] = {
                    key: shared_as(value, parameter) if value.dim() else value.to(parameter.device)
                    for key, value in values.items()
                }
        if self.average:
            self.average.updates = state["averaged"]
            for name, value in tensors["average"].items():
                self.average.average[name].copy_(shared_as(value, self.parameters[name]))
        kept = {name: shared_as(value, self.parameters[name]) for name, value in tensors.get("kept", {}).items()}
        self.keeper.load(state["keeper"], kept)
        self.trajectory.steps = snapshot.step
        self.trajectory.evaluations = list(state["evaluations"])
        self.trajectory.skipped = list(state["skipped"])
        if self.passes and state["halved_to"]:  # or dropout, which draws pass by pass, would draw otherwise
            self.passes.halved_to = state["halved_to"]
        if self.optimizer.scaler:
            self.optimizer.scaler.load_state_dict(state["scaler"])


@contextmanager
def own_numbers() -> Iterator[None]:
    """Give the caller's random number generators back as they were; a run sets them to what its seed says.

    Whether the caller wants gradients of its own is nothing to a run either.
    """
    python, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002  # the global one is the caller's
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
        try:
            with torch.inference_mode(mode=False), torch.enable_grad():
                yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)  # noqa: NPY002


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make what a step draws, such as dropout, a function of these three alone.

    A run that is continued then draws what it would have drawn, whatever happened before and between.
    """
    drawn = int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])
    if torch.accelerator.is_available():
        set_seed(drawn)
    else:  # the same, but for devices that are not there: to remember it for those, torch looks at the whole stack
        random.seed(drawn)
        np.random.seed(drawn)  # noqa: NPY002 - what libraries draw from
        torch.default_generator.manual_seed(drawn)
