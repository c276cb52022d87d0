"""Checks of the settings of continual learning, without opening a model or data."""

from __future__ import annotations

from nlp_transfer.data.files import existing
from nlp_transfer.errors import UserError, about, at_least, one_of
from nlp_transfer.settings import Settings


def check_continual(settings: Settings) -> None:
    """Check the values of the `continual` group, by themselves and against other settings.

    Raises:
        UserError: naming the key, its value and what it may be.
    """
    continual = settings.continual
    one_of(continual.labels, ("data", "all"), "continual.labels")
    at_least(continual, "continual.", 0, "replay")
    if continual.data is not None:
        if not continual.used:
            raise UserError(
                f"continual.data={continual.data} is not used: set continual.replay=100 to replay some of its "
                "rows, or continual.labels=all to keep the labels of the model"
            )
        with about("continual.data"):
            existing(continual.data)
    if continual.keeps_labels and settings.pretraining.used:
        raise UserError(
            "pretraining.epochs changes the encoder below the head that continual.labels=all keeps: pretrain before "
            "the first task, or set continual.labels=data"
        )


def check_absent(settings: Settings, absent: list[str]) -> None:
    """Refuse settings that need training rows of every label, if some kept labels have none.

    Args:
        settings: of the run.
        absent: labels without a training row.

    Raises:
        UserError: naming the key and a label.
    """
    if settings.strategy.head_last:
        setting = "strategy.head_last=true"
    elif settings.decision.unknown:
        setting = f"decision.unknown={settings.decision.unknown:g}"
    else:
        return
    if absent:
        raise UserError(
            f"{setting} needs training rows of every label, and {absent[0]!r} has none: replay rows that have it "
            "(continual.replay), or leave it out"
        )
