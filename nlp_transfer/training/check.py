"""Which values of the `training` and `evaluation` groups no run can use: refused before anything is written."""

from __future__ import annotations

from nlp_transfer.errors import UserError, one_of
from nlp_transfer.settings import EvaluationSettings, TrainingSettings
from nlp_transfer.training.schedules import SCHEDULES


def check(settings: TrainingSettings) -> None:
    """Check every value that has a range or a list of choices.

    Raises:
        UserError: naming the key, its value and what it may be.
    """
    one_of(settings.schedule, SCHEDULES, "training.schedule")
    one_of(settings.keep, ("best", "last"), "training.keep")
    one_of(settings.precision, ("auto", "fp32", "bf16", "fp16"), "training.precision")
    for key, least in (("batch_size", 1), ("micro_batch_size", 1), ("micro_batch_tokens", 1), ("patience", 1)):
        _at_least(key, getattr(settings, key), least)
    for key in ("min_steps", "weight_decay", "max_grad_norm"):
        _at_least(key, getattr(settings, key), 0)
    _at_least("max_steps", settings.max_steps, 1)
    _at_least("max_skipped", settings.max_skipped, 1)
    for key in ("epochs", "epsilon", "evaluate_every"):
        if not getattr(settings, key) > 0:
            raise UserError(f"training.{key}={getattr(settings, key)} must be positive")
    for key in ("warmup", "ema"):
        if not 0 <= getattr(settings, key) < 1:
            raise UserError(f"training.{key}={getattr(settings, key)} must lie in [0, 1)")
    if len(settings.betas) != 2 or not all(0 <= beta < 1 for beta in settings.betas):
        raise UserError(f"training.betas={list(settings.betas)} must be two numbers in [0, 1)")


def check_evaluation(settings: EvaluationSettings) -> None:
    """Check the values of the `evaluation` group, before a training whose figures they would spoil.

    Raises:
        UserError: naming the key, its value and what it may be.
    """
    if not 0 < settings.confidence < 1:
        raise UserError(f"evaluation.confidence={settings.confidence} must lie between 0 and 1")
    for key in ("resamples", "batch_tokens"):
        if getattr(settings, key) < 1:
            raise UserError(f"evaluation.{key}={getattr(settings, key)} must be at least 1")


def _at_least(key: str, value: float | None, least: float) -> None:
    if value is not None and not value >= least:
        raise UserError(f"training.{key}={value} must be at least {least}")
