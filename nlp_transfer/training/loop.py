"""The training loop: optimizer steps over batches, on any number of ranks, with one exact normalisation.

The loss of an optimizer step is Σ wᵢ·ℓᵢ / Σ wᵢ over all its examples, however many forward passes and ranks they are
spread over. The loop knows no strategy and no loss term by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from nlp_transfer.data.batches import Columns, Order, Padding
from nlp_transfer.errors import UserError
from nlp_transfer.settings import TrainingSettings
from nlp_transfer.strategies import Group
from nlp_transfer.training.bfloat16 import WorkingCopy, working_copy
from nlp_transfer.training.callbacks import Callbacks, Validation
from nlp_transfer.training.checkpoint import Snapshot
from nlp_transfer.training.keeper import Keeper
from nlp_transfer.training.length import batch_size, planned_steps, steps_between_evaluations
from nlp_transfer.training.optimizer import MovingAverage, clip, set_rates
from nlp_transfer.training.passes import Passes
from nlp_transfer.training.placement import place
from nlp_transfer.training.signals import Stopped, StopRequest, catching_signals
from nlp_transfer.training.state import TrainingState, Trajectory, seed_step


@dataclass(frozen=True)
class TrainingData:
    """The training split, and how batches are made of it.

    Attributes:
        columns: the training split.
        padding: how the rows of a batch are padded.
        classes: (labelled examples,) integers, for batches with several examples of a class; None: a plain shuffle.
        sampler: maps the index of a step to its examples, and depends on nothing else; None: `Order` shuffles them.
        compares: whether the loss compares examples with each other; a batch is then cut into as few passes as fit.
    """

    columns: Columns
    padding: Padding
    classes: np.ndarray | None = None
    sampler: Callable[[int], np.ndarray] | None = None
    compares: bool = False


@dataclass(frozen=True)
class Checkpointing:
    """When checkpoints are written, and the one to resume from.

    Attributes:
        resumed: the checkpoint of an earlier process, or None.
        due: returns whether it is time for a checkpoint; the first rank's answer counts.
        commit: writes a checkpoint; called on every rank.
    """

    resumed: Snapshot | None
    due: Callable[[], bool]
    commit: Callable[[Snapshot], None]


class NotFinite(Exception):
    """Several steps in a row had an infinite or NaN loss or gradient.

    Attributes:
        step: the last of them, counted from 1.
        examples: its rows, as indices of the training split.
    """

    def __init__(self, step: int, examples: np.ndarray) -> None:
        self.step, self.examples = step, examples
        super().__init__(f"loss or gradient was not finite at step {step}")


def fit(
    accelerator: Accelerator,
    step: nn.Module,
    groups: Sequence[Group],
    data: TrainingData,
    *,
    settings: TrainingSettings,
    seed: int,
    frozen: Sequence[nn.Module] = (),
    validation: Validation | None = None,
    callbacks: Callbacks | None = None,
    checkpointing: Checkpointing | None = None,
) -> Trajectory:
    """Train, evaluate at regular intervals, and leave the kept weights in the model.

    A run resumed from a checkpoint ends in the same bits as one that was never interrupted.

    Args:
        accelerator: ranks, device and precision; its own gradient accumulation stays at 1.
        step: maps (batch, progress) to Σ wᵢ·ℓᵢ of that batch; not yet prepared.
        groups: the trainable parameters.
        data: the training split and its batches.
        settings: the `training` group.
        seed: of the data order and of dropout.
        frozen: modules that stay constant, run without dropout.
        validation: how weights are evaluated; None: they are not, and the last ones are kept.
        callbacks: called as training proceeds.
        checkpointing: checkpoints; None: none is written.

    Raises:
        NotFinite: when `max_skipped` steps in a row were skipped.
        NoMemory: when memory does not suffice for a single example.
        Stopped: on SIGINT, SIGTERM or SIGUSR1, after the step was finished and its checkpoint written.
    """
    callbacks = callbacks or Callbacks()
    labelled = data.columns.labelled_rows
    total = planned_steps(labelled, settings)
    evaluation_interval = steps_between_evaluations(labelled, settings)
    sample = data.sampler or _shuffled(data, batch_size(labelled, settings), seed)
    if settings.compile:
        step.compile()
    _train_mode(step, frozen)
    placed = place(accelerator, step, groups, settings, working_copy(accelerator, compiled=settings.compile))
    optimizer, working = placed.optimizer, placed.working
    parameters = {name: p for name, p in placed.trained.named_parameters() if p.requires_grad}
    average = MovingAverage(placed.trained, settings.ema) if settings.ema else None  # after the ranks were made equal
    keeper = Keeper(
        higher_is_better=validation is None or validation.higher_is_better,
        keep_best=settings.keep == "best",
        patience=settings.patience,
    )
    trajectory = Trajectory()
    passes = Passes(
        accelerator,
        placed.module,
        data.columns,
        data.padding,
        settings.micro_batch_size,
        settings.micro_batch_tokens,
        on_halved=lambda tokens: callbacks.on_halved(trajectory.steps + 1, tokens),
        working=working,
        compares=data.compares,
        collective=placed.sharded is not None,
    )
    state = TrainingState(parameters, optimizer, average, keeper, trajectory, passes, placed.gathered)
    if checkpointing and checkpointing.resumed:
        state.restore(checkpointing.resumed)
    passes.pace.restart()
    with catching_signals(callbacks.on_stop) as stop_request:
        for index in range(trajectory.steps, total):
            if keeper.out_of_patience:
                break
            progress = (index + 0.5) / total  # the middle of the step: neither the first nor the last rate is zero
            set_rates(optimizer, settings, progress)
            examples = sample(index)
            loss = passes.accumulate(
                examples, progress, reseed=partial(seed_step, seed, index, accelerator.process_index)
            )
            if index == 0:
                check_gradients(placed.trained, working)
            moments_before, kept_before = len(optimizer.state), len(keeper.weights)
            with passes.pace.part("optimizer"):
                norm = _update(accelerator, state, loss, settings.max_grad_norm)
            trajectory.steps = index + 1
            is_last = trajectory.steps == total
            rate = optimizer.param_groups[0]["lr"]
            callbacks.on_step(trajectory.steps, total, {"loss": loss, "gradient_norm": norm, "learning_rate": rate})
            if trajectory.skipped_in_a_row >= settings.max_skipped and not _is_scaling_loss(optimizer, loss):
                raise NotFinite(trajectory.steps, examples)
            if trajectory.steps % evaluation_interval == 0 or is_last:
                callbacks.on_pace(trajectory.steps, passes.pace.figures())
                evaluate_and_keep(state, validation, callbacks, is_last=is_last)
                passes.pace.restart()
            # The first moments of a group, and kept weights, leave less memory for later passes.
            if len(optimizer.state) > moments_before or len(keeper.weights) > kept_before:
                passes.forget_what_fitted()
            due, stop = agree_on_stop(
                accelerator, due=bool(checkpointing and checkpointing.due()), stop=stop_request.number
            )
            if checkpointing and (due or stop):
                checkpointing.commit(state.capture())
            if stop:
                raise Stopped(stop)
        stop_if_requested(accelerator, stop_request)
    keeper.restore(parameters)
    placed.release()
    trajectory.kept_step = keeper.step
    return trajectory


def _update(accelerator: Accelerator, state: TrainingState, loss: float, max_norm: float) -> float:
    """Clip the accumulated gradient and step the optimizer, or skip the step; return the norm of the gradient."""
    norm = clip(accelerator, state.optimizer, max_norm)
    is_finite = math.isfinite(loss) and math.isfinite(norm)
    if not step_if_finite(state.optimizer, is_finite=is_finite):
        state.trajectory.skipped.append(state.trajectory.steps + 1)
    elif state.average:
        state.average.update()
    state.optimizer.zero_grad()
    return norm


def evaluate_and_keep(
    state: TrainingState, validation: Validation | None, callbacks: Callbacks, *, is_last: bool
) -> None:
    """Evaluate the weights, or their moving average, and let the keeper decide whether to keep them.

    Args:
        state: of the loop after a step.
        validation: how weights are evaluated; None: the keeper is given NaN.
        callbacks: told of the metrics.
        is_last: whether no evaluation will follow.
    """
    step, metrics, value = state.trajectory.steps, None, math.nan
    with state.average.applied() if state.average else nullcontext():
        if validation:
            with state.gathered():
                metrics = validation.evaluate() | {"step": step}
            value = metrics[validation.metric]
        state.keeper.consider(value, step, state.parameters, is_last=is_last)
    if metrics is not None:
        state.trajectory.evaluations.append(metrics)
        callbacks.on_evaluation(metrics)


def step_if_finite(optimizer: AcceleratedOptimizer, *, is_finite: bool) -> bool:
    """Step the optimizer if loss and gradient are finite, and return whether it did.

    In fp16 the gradient scaler is always asked: it checks by itself, and adapts its scale.
    """
    if is_finite or optimizer.scaler is not None:
        optimizer.step()
    return is_finite and not optimizer.step_was_skipped


def agree_on_stop(accelerator: Accelerator, *, due: bool, stop: int) -> tuple[bool, int]:
    """Return whether a checkpoint is due (rank 0 decides) and which signal any rank received, the same on all ranks."""
    if accelerator.num_processes == 1:
        return due, stop
    gathered = accelerator.gather(torch.tensor([[int(due), stop]], device=accelerator.device))
    assert isinstance(gathered, Tensor)
    dues, stops = zip(*gathered.tolist(), strict=True)  # in one transfer
    return bool(dues[0]), max(stops)


def stop_if_requested(accelerator: Accelerator, stop_request: StopRequest) -> None:
    """Stop if a signal arrived while the checkpoint of the last step was written, after which no step checks for one.

    Raises:
        Stopped: on all ranks.
    """
    if stop := agree_on_stop(accelerator, due=False, stop=stop_request.number)[1]:
        raise Stopped(stop)


def check_gradients(step: nn.Module, working: WorkingCopy | None = None) -> None:
    """Check that every trainable tensor received a gradient, and no frozen one.

    Args:
        step: after a backward pass.
        working: the copy in which the backward pass ran, if not in the step itself.

    Raises:
        UserError: naming trainable tensors without a gradient, or frozen ones with one.
    """
    if working:
        working.hand_over()
    idle = [name for name, p in step.named_parameters() if p.requires_grad and p.grad is None]
    leaking = [name for name, p in step.named_parameters() if not p.requires_grad and p.grad is not None]
    if idle or leaking:
        problem = (
            "received no gradient although they should be trained" if idle else "received a gradient although frozen"
        )
        raise UserError(
            f"{len(idle or leaking)} tensors {problem}, such as {(idle or leaking)[0]}; freeze or adapt other "
            "modules (strategy.freeze, strategy.targets)"
        )


def _shuffled(data: TrainingData, size: int, seed: int) -> Callable[[int], np.ndarray]:
    """Return the sampler that goes through the training split in shuffled or class-balanced epochs."""
    labelled = data.columns.labelled_rows
    unlabelled = len(data.columns) - labelled
    return Order(labelled, batch_size=size, seed=seed, groups=data.classes, unlabelled=unlabelled).step


def _is_scaling_loss(optimizer: AcceleratedOptimizer, loss: float) -> bool:
    """Return whether fp16 steps are skipped only because the loss scale is still being lowered; below 1 none helps."""
    return optimizer.scaler is not None and math.isfinite(loss) and optimizer.scaler.get_scale() >= 1


def _train_mode(step: nn.Module, frozen: Sequence[nn.Module]) -> None:
    """Switch dropout on, but off in frozen modules."""
    step.train()
    for module in frozen:
        module.eval()
