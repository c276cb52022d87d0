"""How long a training is, in what batches, and how often it is measured, from its settings and its rows; no torch."""

from __future__ import annotations

import math

from nlp_transfer.data.batches import steps_per_epoch
from nlp_transfer.settings import TrainingSettings

_PASSES, _STEPS = 2.0, 50  # few rows need steps, not passes: recipes/benchmarks/steps.py
_BATCH, _LARGE_BATCH = 16, 32  # the large one takes two thirds to four fifths of the time: recipes/benchmarks/steps.py
_MANY = 4800  # examples, of which two passes are three hundred large batches
_EVALUATIONS = 5  # of a training that is longer than its passes, at most


def batch_size(examples: int, settings: TrainingSettings) -> int:
    """Return the examples of an optimizer step, over all processes and forward passes."""
    if settings.batch_size is not None:
        return settings.batch_size
    return _BATCH if examples < _MANY else _LARGE_BATCH


def passes(settings: TrainingSettings) -> float:
    """Return the passes over the training split, where these are not fewer than `least_steps`."""
    return _PASSES if settings.epochs is None else settings.epochs


def least_steps(settings: TrainingSettings) -> int:
    """Return the optimizer steps that there are in any case."""
    return max(settings.min_steps, _STEPS) if settings.epochs is None else settings.min_steps


def planned_steps(examples: int, settings: TrainingSettings) -> int:
    """Return the optimizer steps of a run: whole or part passes, at least `least_steps`, at most `max_steps`."""
    in_pass = steps_per_epoch(examples, batch_size(examples, settings))
    steps = max(math.ceil(passes(settings) * in_pass), least_steps(settings))
    return min(steps, settings.max_steps) if settings.max_steps is not None else steps


def steps_between_evaluations(examples: int, settings: TrainingSettings) -> int:
    """Return after how many steps validation rows are asked; not after each of many passes over few rows."""
    in_pass = steps_per_epoch(examples, batch_size(examples, settings))
    every, total = max(1, round(settings.evaluate_every * in_pass)), planned_steps(examples, settings)
    is_longer = total > math.ceil(passes(settings) * in_pass)
    return max(every, math.ceil(total / _EVALUATIONS)) if is_longer else every
