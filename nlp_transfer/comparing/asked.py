"""What a comparison is asked to do, checked and with its data read: refused, if need be, before torch is imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nlp_transfer.checks import check, check_comparison
from nlp_transfer.comparing.grid import Candidate, Draws, candidates_of
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.metrics import selection_metric

if TYPE_CHECKING:
    from nlp_transfer.settings import Settings
    from nlp_transfer.terminal.console import Screen


@dataclass(frozen=True)
class Asked:
    """Who is compared, and on what.

    Attributes:
        settings: that all share.
        candidates: who is trained, floors among them.
        draws: the rows.
        metric: that decides.
    """

    settings: Settings
    candidates: list[Candidate]
    draws: Draws
    metric: str


def ask(recipe: str | None, words: Sequence[str], screen: Screen, *, data: Any = None) -> Asked:
    """Compose, check and read.

    Args:
        recipe: name of a shipped recipe, path of a YAML file, or None.
        words: key=value words.
        screen: where progress is shown.
        data: rows from Python, see ``sources.read_source``.

    Raises:
        UserError: for anything in the words or the data that cannot be used.
    """
    settings, candidates = candidates_of(recipe, words)
    check_comparison(settings)
    for candidate in candidates:
        _check(candidate, settings, data)
    with screen.busy("reading data"):
        draws = Draws(settings, data=data, tell=screen.tell)
    return Asked(settings, candidates, draws, selection_metric(draws.whole.task, settings.evaluation.metric))


def _check(candidate: Candidate, settings: Settings, data: Any) -> None:
    """Check a candidate; name it where what is wrong is its own."""
    try:
        check(candidate.settings, data=data)
        check_comparison(candidate.settings)
    except UserError as error:
        if str(error) == _refusal(settings, data):
            raise
        raise UserError(f"the candidate {candidate.name!r}: {error}") from error


def _refusal(settings: Settings, data: Any) -> str | None:
    try:
        check(settings, data=data)
    except UserError as error:
        return str(error)
    return None
