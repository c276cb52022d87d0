"""The number of optimizer steps, the batch size and the evaluation interval, from settings and rows; without torch."""

from __future__ import annotations

import math

from nlp_transfer.data.batches import steps_per_epoch
from nlp_transfer.settings import TrainingSettings

_EPOCHS, _STEPS = 2.0, 50  # defaults; with few rows the steps count, not the epochs: recipes/benchmarks/steps.py
_BATCH, _LARGE_BATCH = 16, 32  # the large one saves a fifth to a third of the time: recipes/benchmarks/steps.py
_MANY = 4800  # examples, from which on batches are large: two epochs are three hundred of them
_EVALUATIONS = 5  # at most, where `least_steps` make a training longer than its epochs


def batch_size(examples: int, settings: TrainingSettings) -> int:
    """Return the number of examples in an optimizer step, over all ranks and forward passes."""
    if settings.batch_size is not None:
        return settings.batch_size
    return _BATCH if examples < _MANY else _LARGE_BATCH


def epochs_of(settings: TrainingSettings) -> float:
    """Return the epochs of a training; `least_steps` may make it longer."""
    return _EPOCHS if settings.epochs is None else settings.epochs


def least_steps(settings: TrainingSettings) -> int:
    """Return the least number of optimizer steps."""
    return max(settings.min_steps, _STEPS) if settings.epochs is None else settings.min_steps


def planned_steps(examples: int, settings: TrainingSettings) -> int:
    """Return the number of optimizer steps: those of the epochs, at least `least_steps`, at most `max_steps`."""
    per_epoch = steps_per_epoch(examples, batch_size(examples, settings))
    steps = max(math.ceil(epochs_of(settings) * per_epoch), least_steps(settings))
    return min(steps, settings.max_steps) if settings.max_steps is not None else steps


def steps_between_evaluations(examples: int, settings: TrainingSettings) -> int:
    """Return the steps from one evaluation to the next: a share of an epoch, more where there are many short epochs."""
    per_epoch = steps_per_epoch(examples, batch_size(examples, settings))
    interval, total = max(1, round(settings.evaluate_every * per_epoch)), planned_steps(examples, settings)
    is_longer = total > math.ceil(epochs_of(settings) * per_epoch)
    return max(interval, math.ceil(total / _EVALUATIONS)) if is_longer else interval
