"""The loop: optimizer steps over batches, on however many ranks, with one exact normalisation.

The loss of an optimizer step is Σ wᵢ·ℓᵢ / Σ wᵢ over all its examples, whatever the number of forward passes and ranks
they are spread over. It knows no strategy and no term by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from nlp_transfer.data.batches import Columns, Padding, collate, micro_batches, step_examples, steps_per_epoch
from nlp_transfer.errors import UserError
from nlp_transfer.settings import TrainingSettings
from nlp_transfer.strategies import Group
from nlp_transfer.training.inference import to_device
from nlp_transfer.training.optimizer import MovingAverage, awake, build_optimizer, load_parameters, set_rates

Metrics = dict[str, float]
# What a forward and backward pass costs beside its tokens, counted in tokens: launching kernels. A GPU computes
# thousands of tokens in that time; a CPU core about a hundred, so that cutting a step by length beats padding it.
_PASS_COST = {"cpu": 64}


@dataclass
class Trajectory:
    """What happened: the losses step by step, the evaluations, and which weights were kept.

    Attributes:
        steps: optimizer steps done.
        losses: loss of every step.
        evaluations: metrics with `step` of every evaluation on the validation split.
        kept_step: the step whose weights the model holds now.
    """

    steps: int = 0
    losses: list[float] = field(default_factory=list)
    evaluations: list[Metrics] = field(default_factory=list)
    kept_step: int = 0


@dataclass(frozen=True)
class Watch:
    """What the loop tells and asks the outside.

    Attributes:
        evaluate: returns the metrics of the current weights on the validation split; called on every rank.
        metric: the key that decides which weights are kept.
        higher_is_better: how to read it.
        on_step: called after every optimizer step with (steps done, steps in all, {"loss", "learning_rate", ...}).
        on_evaluation: called after every evaluation with the metrics.
    """

    evaluate: Callable[[], Metrics]
    metric: str
    higher_is_better: bool
    on_step: Callable[[int, int, Metrics], None]
    on_evaluation: Callable[[Metrics], None]


def planned_steps(examples: int, settings: TrainingSettings) -> int:
    """Return the optimizer steps of a run: whole or part epochs, at least `min_steps`, at most `max_steps`."""
    steps = max(math.ceil(settings.epochs * steps_per_epoch(examples, settings.batch_size)), settings.min_steps)
    return min(steps, settings.max_steps) if settings.max_steps is not None else steps


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
) -> Trajectory:
    """Train, evaluate as often as asked, and leave the kept weights in the model.

    Args:
        accelerator: ranks, device and precision; its own gradient accumulation stays at 1.
        step: maps (batch, progress) to Σ wᵢ·ℓᵢ of that batch; not yet prepared.
        groups: what learns.
        columns: the training split.
        padding: how rows are made equal.
        settings: the `training` group.
        seed: of the data order.
        frozen: constant modules, which run without dropout.
        watch: the outside.
    """
    total = planned_steps(len(columns), settings)
    every = max(1, round(settings.evaluate_every * steps_per_epoch(len(columns), settings.batch_size)))
    parameters = {name: p for name, p in step.named_parameters() if p.requires_grad}
    wrapped, optimizer = accelerator.prepare(step, build_optimizer(groups, settings))
    average = MovingAverage(step, settings.ema) if settings.ema else None  # after the ranks were made equal
    trajectory = Trajectory()
    keeper = _Keeper(watch, keep_best=settings.keep == "best", patience=settings.patience)
    _train_mode(step, frozen)
    for index in range(total):
        progress = (index + 0.5) / total  # the middle of the step: neither the first nor the last rate is zero
        set_rates(optimizer, settings, progress)
        examples = step_examples(len(columns), batch_size=settings.batch_size, seed=seed, step=index)
        batches = _rank_batches(accelerator, columns, examples, padding, settings)
        loss = _accumulate(
            accelerator, wrapped, batches, float(columns.weights[examples].sum(dtype=np.float64)), progress
        )
        if index == 0:
            check_gradients(step)
        norm = accelerator.clip_grad_norm_(awake(optimizer), settings.max_grad_norm or math.inf)
        optimizer.step()
        optimizer.zero_grad()
        if average:
            average.update()
        trajectory.steps = index + 1
        trajectory.losses.append(loss)
        watch.on_step(
            index + 1,
            total,
            {"loss": loss, "gradient_norm": float(norm), "learning_rate": optimizer.param_groups[0]["lr"]},
        )
        if (index + 1) % every == 0 or index + 1 == total:
            with average.applied() if average else nullcontext():
                metrics = watch.evaluate() | {"step": index + 1}
                keeper.see(metrics, parameters, last=index + 1 == total)
            trajectory.evaluations.append(metrics)
            watch.on_evaluation(metrics)
            if keeper.exhausted:
                break
    keeper.restore(parameters)
    trajectory.kept_step = keeper.step
    return trajectory


def _rank_batches(
    accelerator: Accelerator, columns: Columns, examples: np.ndarray, padding: Padding, settings: TrainingSettings
) -> list[dict[str, Tensor]]:
    """Return this rank's forward passes of a step; at least one, for all ranks must meet in the backward pass."""
    parts = micro_batches(
        columns.tokens,
        examples,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        most_examples=settings.micro_batch_size,
        most_tokens=settings.micro_batch_tokens,
        pass_cost=_PASS_COST.get(accelerator.device.type, 8192),
    )
    if parts:
        return [to_device(collate(columns, part, padding=padding), accelerator.device) for part in parts]
    idle = collate(columns, examples[:1], padding=padding)
    return [to_device(idle | {"weights": np.zeros(1, dtype=np.float32)}, accelerator.device)]


def _accumulate(
    accelerator: Accelerator, wrapped: nn.Module, batches: Sequence[dict[str, Tensor]], weight: float, progress: float
) -> float:
    """Run forward and backward over a step's batches; return its loss over all ranks."""
    share = torch.zeros((), device=accelerator.device)
    for position, batch in enumerate(batches):
        last = position == len(batches) - 1
        with nullcontext() if last else accelerator.no_sync(wrapped):
            part = wrapped(batch, progress) / (weight or 1.0)
            # DDP averages gradients over ranks; the sum over examples is wanted.
            accelerator.backward(part * accelerator.num_processes)
        share += part.detach().float()
    return float(accelerator.reduce(share, "sum"))


def check_gradients(step: nn.Module) -> None:
    """Make sure that what should learn does, and nothing else.

    Raises:
        UserError: naming trainable tensors without a gradient, or frozen ones with one.
    """
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


class _Keeper:
    """Remembers the best weights seen, and how long ago that was."""

    def __init__(self, watch: Watch, *, keep_best: bool, patience: int | None) -> None:
        self.watch, self.keep_best, self.patience = watch, keep_best, patience
        self.best: float | None = None
        self.step = 0
        self.weights: dict[str, Tensor] = {}
        self.waited = 0

    @property
    def exhausted(self) -> bool:
        return self.patience is not None and self.waited >= self.patience

    def see(self, metrics: Metrics, parameters: dict[str, nn.Parameter], *, last: bool) -> None:
        value = metrics[self.watch.metric]
        sign = 1 if self.watch.higher_is_better else -1
        improved = not math.isnan(value) and (self.best is None or sign * value > sign * self.best)
        self.waited = 0 if improved else self.waited + 1
        if improved:
            self.best = value
        stopping = last or self.exhausted
        nothing_measured = self.best is None and stopping  # a metric that is never defined cannot choose
        if nothing_measured or (improved if self.keep_best else stopping):
            self.step = int(metrics["step"])
            self.weights = {name: p.detach().clone() for name, p in parameters.items()}

    def restore(self, parameters: dict[str, nn.Parameter]) -> None:
        if self.weights:
            load_parameters(parameters, self.weights)
