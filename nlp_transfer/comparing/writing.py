"""Writing of a comparison's files: figures, report and the winner's recipe; an edited recipe is not overwritten."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from nlp_transfer.comparing.page import document_of
from nlp_transfer.comparing.recipe import recipe_of
from nlp_transfer.machine.disk import write_json, write_whole
from nlp_transfer.reporting.files import write_pages
from nlp_transfer.running.folder import RunFolder

if TYPE_CHECKING:
    from nlp_transfer.comparing.outcome import ComparisonOutcome
    from nlp_transfer.settings import Settings

_FIGURES = "compare.json"


def write_outcome(outcome: ComparisonOutcome, settings: Settings, *, tell: Callable[[str], None]) -> ComparisonOutcome:
    """Write the winner's recipe, the figures and the report, each atomically.

    A recipe that was edited since an earlier comparison wrote it is kept, and the new one gets another name.

    Args:
        outcome: of the comparison.
        settings: of the winner's run.
        tell: callback for a message about an edited recipe.

    Returns:
        The outcome, with the path of its recipe.

    Raises:
        UserError: if the files cannot be written.
    """
    with RunFolder(outcome.folder).os_errors_reported():
        outcome.folder.mkdir(parents=True, exist_ok=True)
        placed, recipe = _placed(outcome, settings)
        # Before the figures, whose hash identifies it as unedited.
        write_whole(placed.recipe, lambda making: making.write_bytes(recipe))
        write_whole(outcome.folder / _FIGURES, lambda making: write_json(making, placed.to_json()))
    write_pages(document_of(placed), outcome.folder)
    if placed.recipe != outcome.recipe:
        tell(f"{outcome.recipe} was changed since it was written and is kept; the new recipe is {placed.recipe}")
    return placed


def _placed(outcome: ComparisonOutcome, settings: Settings) -> tuple[ComparisonOutcome, bytes]:
    """Return the outcome with a path for its recipe that overwrites no edits, and the recipe, which contains it."""
    unedited = _last_recipe_hash(outcome.folder / _FIGURES)
    first = outcome.recipe
    for number in count(1):
        path = first if number == 1 else first.with_stem(f"{first.stem}-{number}")
        recipe = recipe_of(dataclasses.replace(outcome, recipe=path), settings).encode()
        if not path.exists() or (existing := path.read_bytes()) == recipe or _hash(existing) == unedited:
            break
    return dataclasses.replace(outcome, recipe=path, recipe_sha256=_hash(recipe)), recipe


def _last_recipe_hash(figures: Path) -> str | None:
    """Return the hash of the recipe that the last comparison wrote here, if known."""
    try:
        return str(json.loads(figures.read_text(encoding="utf-8"))["recipe_sha256"])
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return None


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
