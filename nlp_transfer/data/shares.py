"""How large a share of the training rows is carved out for validation; no numpy, for who composes settings reads it."""

from __future__ import annotations

import dataclasses

from nlp_transfer.errors import below_one
from nlp_transfer.settings import DataSettings

USUAL = 0.1  # of the training rows
# Training rows a class below which those to choose by would be better learned from: what so few of them say of weights
# and temperatures is chance.
FEW_TO_CARVE = 20


def check_shares(settings: DataSettings) -> None:
    """Refuse shares that no rows can be divided by.

    Raises:
        UserError: naming the key, its value and what it may be.
    """
    below_one(settings, "data.", "validation_share", "test_share")


def carving(settings: DataSettings) -> DataSettings:
    """Return the settings with a share to carve however few rows there are, if they say none."""
    if settings.validation_share is not None:
        return settings
    return dataclasses.replace(settings, validation_share=USUAL)


def validation_share(settings: DataSettings, *, problem: str, rows: int, labels: int, tested: bool) -> float:
    """Return the share of the training rows that is carved out for validation.

    Args:
        settings: where they name a share, it is that.
        problem: the problem type.
        rows: training rows, those of the test split no longer among them.
        labels: that they have.
        tested: whether there is a test split; without one figures need validation rows.
    """
    if settings.validation_share is not None:
        return settings.validation_share
    return 0.0 if tested and problem == "single_label" and rows < FEW_TO_CARVE * labels else USUAL
