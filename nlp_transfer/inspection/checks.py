"""Checks of the settings of the data check, without importing torch."""

from __future__ import annotations

from collections.abc import Sequence

from nlp_transfer.composing.words import typed_limits
from nlp_transfer.errors import UserError, one_of
from nlp_transfer.inspection.kinds import KINDS, SEVERITIES
from nlp_transfer.settings import Settings
from nlp_transfer.verb_settings import CheckSettings


def check_examination(settings: Settings, words: Sequence[str]) -> None:
    """Check the values of the `check` group, and refuse row limits on the command line; a recipe may have them.

    Raises:
        UserError: naming the key, its value and what it may be.
    """
    check: CheckSettings = settings.check
    one_of(check.fail_on, (*SEVERITIES, "never"), "check.fail_on")
    for kind in check.skip:
        one_of(kind, KINDS, "check.skip")
    for word in typed_limits(words):
        raise UserError(f"{word}: check looks at every row; leave it out")
