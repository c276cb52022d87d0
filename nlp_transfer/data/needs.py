"""Settings that need validation rows, which are then carved even out of few training rows."""

from __future__ import annotations

import dataclasses

from nlp_transfer.data.shares import with_explicit_share
from nlp_transfer.settings import Settings


def with_needed_rows(settings: Settings) -> Settings:
    """Return the settings with an explicit `data.validation_share` where some setting needs validation rows.

    The `data` group does not depend on other groups. With an explicit share, the stored settings of a run alone say
    how its rows are divided.
    """
    decision = settings.decision
    needed = decision.risk or decision.unknown or decision.coverage or settings.training.patience
    return with_validation(settings) if needed else settings


def with_validation(settings: Settings) -> Settings:
    """Return the settings with an explicit `data.validation_share`."""
    return dataclasses.replace(settings, data=with_explicit_share(settings.data))
