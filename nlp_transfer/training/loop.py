"""The loop: optimizer steps over batches, on however many ranks, with one exact normalisation.

The loss of an optimizer step is Σ wᵢ·ℓᵢ / Σ wᵢ over all its examples, whatever the number of forward passes and ranks
they are spread over. It knows no strategy and no term by name.
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
from nlp_transfer.training.bfloat16 import WorkingCopy
from nlp_transfer.training.checkpoint import Snapshot
from nlp_transfer.training.keeper import Keeper
from nlp_transfer.training.length import batch_size, planned_steps, steps_between_evaluations
from nlp_transfer.training.optimizer import MovingAverage, clip, set_rates
from nlp_transfer.training.passes import Passes
from nlp_transfer.training.placement import place
from nlp_transfer.training.signals import Asked, Stopped, listening
from nlp_transfer.training.state import TrainingState, Trajectory, seed_step

Metrics = dict[str, float]


@dataclass(frozen=True)
class Watch:
    """What the loop tells and asks the outside.

    Attributes:
        evaluate: returns the metrics of the current weights on the validation split; called on every rank. None: there
            is no such split, and the last weights are kept.
        metric: the key that decides which weights are kept.
        higher_is_better: how to read it.
        on_step: called after every optimizer step with (steps done, steps in all, {"loss", "learning_rate", ...}).
        on_evaluation: called after every evaluation with the metrics.
        on_pace: called before every evaluation with (step, figures of ``training.pace`` since the one before).
        on_halved: called with (step, tokens) where memory did not suffice and passes hold at most `tokens` from there.
        on_stop: called at once when a signal asks to stop; the step is finished first.
    """

    evaluate: Callable[[], Metrics] | None
    metric: str
    higher_is_better: bool
    on_step: Callable[[int, int, Metrics], None]
    on_evaluation: Callable[[Metrics], None]
    on_pace: Callable[[int, Metrics], None] = lambda step, figures: None
    on_halved: Callable[[int, int], None] = lambda step, tokens: None
    on_stop: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Saving:
    """When a run is written down, and where it goes on.

    Attributes:
        resumed: what an earlier process committed, or None.
        due: whether it is time for a commit; the first rank's answer counts.
        commit: writes a snapshot; called on every rank.
    """

    resumed: Snapshot | None
    due: Callable[[], bool]
    commit: Callable[[Snapshot], None]


class NotFinite(Exception):
    """Steps in a row whose loss or gradient was infinite or not a number.

    Attributes:
        examples: rows of the last of them, as indices of the training split.
    """

    def __init__(self, step: int, examples: np.ndarray) -> None:
        self.step, self.examples = step, examples
        super().__init__(f"loss or gradient was not finite at step {step}")


def fit(
    accelerator: Accelerator,
    step: nn.Module,
    groups: Sequence[Group],
    columns: Columns,
    *,
    padding: Padding,
    settings: TrainingSettings,
    seed: int,
    frozen: Sequence[nn.Module],
    watch: Watch,
    saving: Saving | None = None,
    copied: Callable[[nn.Module], WorkingCopy] | None = None,
    compares: bool = False,
    kinds: np.ndarray | None = None,
    drawn: Callable[[int], np.ndarray] | None = None,
) -> Trajectory:
    """Train, evaluate as often as asked, and leave the kept weights in the model.

    A run that was committed and goes on ends in the same bits as one that was never interrupted.

    Args:
        accelerator: ranks, device and precision; its own gradient accumulation stays at 1.
        step: maps (batch, progress) to Σ wᵢ·ℓᵢ of that batch; not yet prepared.
        groups: what learns.
        columns: the training split.
        padding: how rows are made equal.
        settings: the `training` group.
        seed: of the data order and of dropout.
        frozen: constant modules, which run without dropout.
        watch: the outside.
        saving: where the run is committed and resumed; None: it is not.
        copied: makes the copy of the step in which forward and backward passes run; None: they run in the step itself.
        compares: whether the step compares examples of a batch with each other; they meet in as few passes as they fit
            in, then.
        kinds: (labelled examples,) integers, where each step should have several of one kind.
        drawn: returns the examples of a step, counted from the first of the run, a function of nothing else; None: they
            come in the order of `Order`.

    Raises:
        NotFinite: when `max_skipped` steps in a row could not be taken.
        NoMemory: when memory does not suffice for a single example.
        Stopped: on SIGINT, SIGTERM or SIGUSR1, after the step was finished and committed.
    """
    rows, beside = columns.labelled_rows, len(columns) - columns.labelled_rows
    total, size = planned_steps(rows, settings), batch_size(rows, settings)
    drawn = drawn or Order(rows, batch_size=size, seed=seed, kinds=kinds, beside=beside).step
    every = steps_between_evaluations(rows, settings)
    _train_mode(step, frozen)
    placed = place(accelerator, step, groups, settings, copied)
    optimizer, working = placed.optimizer, placed.working
    parameters = {name: p for name, p in placed.trained.named_parameters() if p.requires_grad}
    average = MovingAverage(placed.trained, settings.ema) if settings.ema else None  # after the ranks were made equal
    keeper = Keeper(
        watch.metric,
        higher_is_better=watch.higher_is_better,
        keep_best=settings.keep == "best",
        patience=settings.patience,
    )
    trajectory = Trajectory()
    passes = Passes(
        accelerator,
        placed.module,
        columns,
        padding,
        settings.micro_batch_size,
        settings.micro_batch_tokens,
        on_halved=lambda tokens: watch.on_halved(trajectory.steps + 1, tokens),
        working=working,
        compares=compares,
        in_step=placed.sharded is not None,
    )
    state = TrainingState(parameters, optimizer, average, keeper, trajectory, passes, placed.gathered)
    if saving and saving.resumed:
        state.restore(saving.resumed)
    passes.pace.go_on()
    with listening(watch.on_stop) as asked:
        for index in range(trajectory.steps, total):
            if keeper.exhausted:
                break
            progress = (index + 0.5) / total  # the middle of the step: neither the first nor the last rate is zero
            set_rates(optimizer, settings, progress)
            examples = drawn(index)
            loss = passes.accumulate(
                examples, progress, reseed=partial(seed_step, seed, index, accelerator.process_index)
            )
            if index == 0:
                check_gradients(placed.trained, working)
            held, kept = len(optimizer.state), len(keeper.weights)
            with passes.pace.part("optimizer"):
                norm = clip(accelerator, optimizer, settings.max_grad_norm)
                if take(optimizer, finite=math.isfinite(loss) and math.isfinite(norm)):
                    if average:
                        average.update()
                else:
                    trajectory.skipped.append(index + 1)
                optimizer.zero_grad()
            trajectory.steps = index + 1
            rate = optimizer.param_groups[0]["lr"]
            watch.on_step(index + 1, total, {"loss": loss, "gradient_norm": norm, "learning_rate": rate})
            # In fp16 steps are skipped while the scale of the loss is sought; below 1 there is none to be found.
            seeking = optimizer.scaler is not None and math.isfinite(loss) and optimizer.scaler.get_scale() >= 1
            if trajectory.skipped_in_a_row >= settings.max_skipped and not seeking:
                raise NotFinite(index + 1, examples)
            if (index + 1) % every == 0 or index + 1 == total:
                watch.on_pace(index + 1, passes.pace.told())
                look(state, watch, last=index + 1 == total)
                passes.pace.go_on()
            # Moments of the first step or of a group that woke, and kept weights, take memory from what is to come.
            if len(optimizer.state) > held or len(keeper.weights) > kept:
                passes.forget_what_fitted()
            due, stop = agreed(accelerator, due=bool(saving and saving.due()), stop=asked.number)
            if saving and (due or stop):
                saving.commit(state.capture())
            if stop:
                raise Stopped(stop)
        stop_if_asked(accelerator, asked)
    keeper.restore(parameters)
    placed.leave()
    trajectory.kept_step = keeper.step
    return trajectory


def look(state: TrainingState, watch: Watch, *, last: bool) -> None:
    """Let the keeper see the weights, or their average, with what they are worth: not a number if nothing is measured.

    Args:
        state: of the loop after a step.
        watch: the outside.
        last: none will follow.
    """
    metrics: Metrics = {watch.metric: math.nan}
    with state.average.applied() if state.average else nullcontext():
        if watch.evaluate:
            with state.gathered():
                metrics = watch.evaluate()
        metrics = metrics | {"step": state.trajectory.steps}
        state.keeper.see(metrics, state.parameters, last=last)
    if watch.evaluate:
        state.trajectory.evaluations.append(metrics)
        watch.on_evaluation(metrics)


def take(optimizer: AcceleratedOptimizer, *, finite: bool) -> bool:
    """Take a step if it is finite; return whether it was taken. In fp16 the scaler looks for itself, and adapts."""
    if finite or optimizer.scaler is not None:
        optimizer.step()
    return finite and not optimizer.step_was_skipped


def agreed(accelerator: Accelerator, *, due: bool, stop: int) -> tuple[bool, int]:
    """Return whether a commit is due and which signal was heard, the same on every rank."""
    if accelerator.num_processes == 1:
        return due, stop
    wishes = torch.tensor([[int(due), stop]], device=accelerator.device)
    every = accelerator.gather(wishes)
    assert isinstance(every, Tensor)
    own, signals = zip(*every.tolist(), strict=True)  # in one transfer
    return bool(own[0]), max(signals)


def stop_if_asked(accelerator: Accelerator, asked: Asked) -> None:
    """Stop where a signal came while the last step was committed, after which no step asks any more.

    Raises:
        Stopped: on all ranks.
    """
    if stop := agreed(accelerator, due=False, stop=asked.number)[1]:
        raise Stopped(stop)


def check_gradients(step: nn.Module, working: WorkingCopy | None = None) -> None:
    """Make sure that what should learn does, and nothing else.

    Args:
        step: after a backward pass.
        working: the copy in which that was, if not in the step itself.

    Raises:
        UserError: naming trainable tensors without a gradient, or frozen ones with one.
    """
    if working:
        working.hand_over()
    idle = [name for name, p in step.named_parameters() if p.requires_grad and p.grad is None]
    leaking = [name for name, p in step.named_parameters() if not p.requires_grad and p.grad is not None]
    if idle or leaking:
        problem = "received no gradient although they should learn" if idle else "received a gradient although frozen"
        raise UserError(
            f"{len(idle or leaking)} tensors {problem}, such as {(idle or leaking)[0]}; freeze or adapt other "
            "modules (strategy.freeze, strategy.targets)"
        )


def _train_mode(step: nn.Module, frozen: Sequence[nn.Module]) -> None:
    """Switch dropout on where something learns and off where nothing does."""
    step.train()
    for module in frozen:
        module.eval()
