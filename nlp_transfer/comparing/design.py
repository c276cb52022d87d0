"""The design of a comparison: its settings are checked and its data read before torch is imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nlp_transfer.checks import check_settings
from nlp_transfer.comparing.grid import Candidate, TrialData, candidates_of
from nlp_transfer.errors import UserError, at_least
from nlp_transfer.evaluation.metrics import selection_metric
from nlp_transfer.settings import DATA_LIMITS

if TYPE_CHECKING:
    from nlp_transfer.settings import Settings
    from nlp_transfer.terminal.console import Screen
    from nlp_transfer.verb_settings import CompareSettings


@dataclass(frozen=True)
class Design:
    """What is compared, and on which data.

    Attributes:
        settings: shared by all candidates.
        candidates: everything that is trained, including trained baselines.
        data: the rows of the trials.
        metric: that decides.
    """

    settings: Settings
    candidates: list[Candidate]
    data: TrialData
    metric: str


def design_of(recipe: str | None, words: Sequence[str], screen: Screen, *, data: Any = None) -> Design:
    """Compose and check the settings of a comparison, and read its data.

    Args:
        recipe: name of a shipped recipe, path of a YAML file, or None.
        words: key=value words.
        screen: where progress is shown.
        data: rows from Python, see ``sources.read_source``.

    Raises:
        UserError: for anything in the words or the data that cannot be used.
    """
    settings, candidates = candidates_of(recipe, words)
    _check_comparison(settings)
    for candidate in candidates:
        _check(candidate, settings, data)
    with screen.busy("reading data"):
        trial_data = TrialData(settings, data=data, tell=screen.tell)
    metric = selection_metric(trial_data.whole.task, settings.evaluation.metric)
    return Design(settings, candidates, trial_data, metric)


def _check_comparison(settings: Settings) -> None:
    """Check the values of the `compare` group, and that no other setting limits the rows.

    Raises:
        UserError: naming the key, its value and what it may be.
    """
    compare: CompareSettings = settings.compare
    if settings.continual.used:
        raise UserError("continual continues one model, and a comparison trains many: leave its keys out, or use adapt")
    for key in DATA_LIMITS:
        if (value := getattr(settings.data, key)) is not None:
            raise UserError(f"data.{key}={value}: in a comparison compare.labels sets the number of rows")
    if not compare.labels:
        raise UserError("compare.labels is empty; give numbers of training rows per class, or all")
    for labels in compare.labels:
        if labels != "all" and (not labels.isdecimal() or int(labels) < 1):
            raise UserError(f"compare.labels: {labels!r} must be a whole number from 1 up, or all")
    at_least(compare, "compare.", 1, "seeds")
    if settings.seed + compare.seeds > 2**32:
        raise UserError(f"seed={settings.seed} and compare.seeds={compare.seeds} must stay below 2**32 together")
    if compare.minutes is not None and not compare.minutes > 0:
        raise UserError(f"compare.minutes={compare.minutes} must be above 0")


def _check(candidate: Candidate, settings: Settings, data: Any) -> None:
    """Check a candidate; errors that the shared settings do not cause name it."""
    try:
        check_settings(candidate.settings, data=data)
        _check_comparison(candidate.settings)
    except UserError as error:
        if str(error) == _refusal(settings, data):
            raise
        raise UserError(f"the candidate {candidate.name!r}: {error}") from error


def _refusal(settings: Settings, data: Any) -> str | None:
    try:
        check_settings(settings, data=data)
    except UserError as error:
        return str(error)
    return None
