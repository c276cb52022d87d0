"""The share of the training rows that is carved out for validation; imported with settings, so without numpy."""

from __future__ import annotations

import dataclasses

from nlp_transfer.errors import below_one
from nlp_transfer.settings import DataSettings

DEFAULT_SHARE = 0.1
# With fewer training rows per class none are carved: so few validation rows choose weights and temperatures by chance,
# and are more useful for training.
FEW_TO_CARVE = 20


def check_shares(settings: DataSettings) -> None:
    """Check that the shares are valid.

    Raises:
        UserError: naming the key, its value and the valid range.
    """
    below_one(settings, "data.", "validation_share", "test_share")


def with_explicit_share(settings: DataSettings) -> DataSettings:
    """Return the settings with the default share if none is set, so that it is carved out of few rows, too."""
    if settings.validation_share is not None:
        return settings
    return dataclasses.replace(settings, validation_share=DEFAULT_SHARE)


def validation_share(settings: DataSettings, *, problem: str, rows: int, labels: int, has_test: bool) -> float:
    """Return the share of the training rows that is carved out for validation.

    Args:
        settings: a share set there is used.
        problem: the problem type.
        rows: number of training rows after the test split was carved.
        labels: number of distinct labels.
        has_test: whether there is a test split; without one, validation rows are needed to measure on.
    """
    if settings.validation_share is not None:
        return settings.validation_share
    return 0.0 if has_test and problem == "single_label" and rows < FEW_TO_CARVE * labels else DEFAULT_SHARE
