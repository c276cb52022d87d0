"""Checks of the settings of multitask training, without data and without importing torch."""

from __future__ import annotations

from nlp_transfer.errors import UserError, one_of
from nlp_transfer.settings import Settings

SAMPLING = ("proportional", "temperature", "uniform")
BALANCE = ("none", "uncertainty")
BESIDE = ("none", "alone", "pairs")


def check_multitask(settings: Settings) -> None:
    """Check the `multitask` group, by itself and against other settings.

    Raises:
        UserError: naming the key, its value and what it may be.
    """
    multitask, strategy = settings.multitask, settings.strategy
    one_of(multitask.sampling, SAMPLING, "multitask.sampling")
    one_of(multitask.balance, BALANCE, "multitask.balance")
    one_of(multitask.beside, BESIDE, "multitask.beside")
    if not multitask.temperature >= 1:
        raise UserError(f"multitask.temperature={multitask.temperature:g} must be at least 1, which is proportional")
    if multitask.balance != "none" and not strategy.trains:
        raise UserError(
            f"multitask.balance={multitask.balance} is learned by gradient steps, and an exact probe takes none: each "
            "head is solved by itself; take another strategy, or multitask.balance=none"
        )
    if others := [name for name, term in settings.objective.items() if name != "classify" and term.weight]:
        raise UserError(
            f"objective.{others[0]} is a term of one task; several are learned by the labels of each alone: take "
            "objective=classify"
        )
    classify = settings.objective.get("classify")
    if classify is not None and classify.weight != 1:
        raise UserError(
            f"objective.classify.weight={classify.weight:g}: with several tasks there is no other term to weigh their "
            "losses against; leave it at 1"
        )
    if settings.pretraining.epochs:
        raise UserError(
            f"pretraining.epochs={settings.pretraining.epochs:g} is for a run of one task: pretrain there, and name "
            "that run's model as the encoder of all tasks"
        )
    if settings.continual.used:
        raise UserError(
            "continual continues a model of one task: leave its keys out, and name that model as the encoder of all "
            "tasks"
        )
    if settings.data.unlabelled is not None:
        raise UserError("data.unlabelled is for a run of one task; leave it out")
    if settings.data.label_texts is not None:
        raise UserError("data.label_texts is for a run of one task; leave it out")
    if settings.hub.push:
        raise UserError("hub.push=true is for one model: push the folder of each task with nlp-transfer push")
    if getattr(strategy, "minutes", None) is not None:
        raise UserError(f"strategy.minutes={strategy.minutes:g} is for a run of one task; name a strategy instead")
