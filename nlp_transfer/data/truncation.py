"""Valid values of the `tokens` settings, which say how long texts are truncated; needs neither texts nor numpy."""

from __future__ import annotations

from nlp_transfer.errors import UserError, one_of
from nlp_transfer.settings import TokenSettings

TRUNCATION_SIDES = ("right", "left")
PAIR_TRUNCATIONS = ("longest_first", "only_first", "only_second")


def check_tokens(settings: TokenSettings) -> None:
    """Check the values that can be checked without texts and without an encoder.

    Raises:
        UserError: naming the key, its value and the valid values.
    """
    one_of(settings.truncation_side, TRUNCATION_SIDES, "tokens.truncation_side")
    one_of(settings.pair_truncation, PAIR_TRUNCATIONS, "tokens.pair_truncation")
    one_of(settings.long, ("truncate", "chunk"), "tokens.long")
    if not 0 < settings.percentile <= 100:
        raise UserError(f"tokens.percentile={settings.percentile} must lie in (0, 100]")
    if not 0 <= settings.overlap <= 0.5:
        raise UserError(f"tokens.overlap={settings.overlap} must lie in [0, 0.5]")
    if settings.max_windows is not None and settings.max_windows < 1:
        raise UserError(f"tokens.max_windows={settings.max_windows} must be at least 1, or null for no bound")
    if settings.max_length != "auto" and type(settings.max_length) is not int:
        raise UserError(f"tokens.max_length={settings.max_length!r} must be auto or a whole number")
