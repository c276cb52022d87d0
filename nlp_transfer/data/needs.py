"""Which settings need validation rows, so that they are carved out of however few training rows there are."""

from __future__ import annotations

import dataclasses

from nlp_transfer.data.shares import carving
from nlp_transfer.settings import Settings


def with_needed_rows(settings: Settings) -> Settings:
    """Return the settings with a number for `data.validation_share` where something is chosen by validation rows alone.

    The group `data` knows no other one. What a run stores says then by itself how its rows are divided.
    """
    decision = settings.decision
    needed = decision.risk or decision.unknown or decision.coverage or settings.training.patience
    return with_validation(settings) if needed else settings


def with_validation(settings: Settings) -> Settings:
    """Return the settings with a number for `data.validation_share` in any case."""
    return dataclasses.replace(settings, data=carving(settings.data))
