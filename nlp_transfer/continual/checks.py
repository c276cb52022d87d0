"""Which settings of a run that goes on from another one nothing can be made of; it opens no model and no rows."""

from __future__ import annotations

from nlp_transfer.data.files import existing
from nlp_transfer.errors import UserError, about, at_least, one_of
from nlp_transfer.settings import Settings


def check_continual(settings: Settings) -> None:
    """Check the values of the `continual` group, alone and beside others.

    Raises:
        UserError: naming the key, its value and what it may be.
    """
    own = settings.continual
    one_of(own.labels, ("data", "all"), "continual.labels")
    at_least(own, "continual.", 0, "replay")
    if own.data is not None:
        if not own.used:
            raise UserError(
                f"continual.data={own.data} is not read: set continual.replay=100 to learn some of its rows again, or "
                "continual.labels=all to keep what the model knows"
            )
        with about("continual.data"):
            existing(own.data)
    if own.keeps_labels and settings.pretraining.used:
        raise UserError(
            "pretraining.epochs changes the encoder below the head that continual.labels=all keeps: pretrain before "
            "the first task, or set continual.labels=data"
        )


def check_absent(settings: Settings, absent: list[str]) -> None:
    """Refuse what needs rows of every label, where some labels are there because the model knows them.

    Args:
        settings: of the run.
        absent: labels without a training row.

    Raises:
        UserError: naming the key and a label.
    """
    if not absent:
        return
    asked = ["strategy.head_last=true"] if settings.strategy.head_last else []
    asked += [f"decision.unknown={settings.decision.unknown:g}"] if settings.decision.unknown else []
    for words in asked:
        raise UserError(
            f"{words} needs training rows of every label, and {absent[0]!r} has none: replay rows that have it "
            "(continual.replay), or leave it out"
        )
