"""What a comparison leaves in its folder: figures, pages and the winner's recipe; a recipe that was edited stays."""

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
    from nlp_transfer.comparing.outcome import Outcome
    from nlp_transfer.settings import Settings

_FIGURES = "compare.json"


def write_outcome(outcome: Outcome, settings: Settings, *, tell: Callable[[str], None]) -> Outcome:
    """Write the winner's recipe, the figures and the pages; each file takes its name when it is whole.

    A recipe that is not as an earlier comparison wrote it belongs to whoever edited it: it stays, and the new one lies
    beside it.

    Args:
        outcome: of the comparison.
        settings: of the winner's run.
        tell: is told of a recipe that stays.

    Returns:
        The outcome, with where its recipe lies.

    Raises:
        UserError: if that is not possible.
    """
    with RunFolder(outcome.folder).os_errors_reported():
        outcome.folder.mkdir(parents=True, exist_ok=True)
        found, recipe = _placed(outcome, settings)
        # Before the figures, which say that it is ours.
        write_whole(found.recipe, lambda making: making.write_bytes(recipe))
        write_whole(outcome.folder / _FIGURES, lambda making: write_json(making, found.to_json()))
    write_pages(document_of(found), outcome.folder)
    if found.recipe != outcome.recipe:
        tell(f"{outcome.recipe} was changed since it was written and stays; the new recipe is {found.recipe}")
    return found


def _placed(outcome: Outcome, settings: Settings) -> tuple[Outcome, bytes]:
    """Return the outcome with a place for its recipe where no work of others is, and the recipe, which names it."""
    ours = _hash_of_ours(outcome.folder / _FIGURES)
    first = outcome.recipe
    for number in count(1):
        path = first if number == 1 else first.with_stem(f"{first.stem}-{number}")
        recipe = recipe_of(dataclasses.replace(outcome, recipe=path), settings).encode()
        if not path.exists() or (there := path.read_bytes()) == recipe or _hash(there) == ours:
            break
    return dataclasses.replace(outcome, recipe=path, recipe_sha256=_hash(recipe)), recipe


def _hash_of_ours(figures: Path) -> str | None:
    """Return the hash of the recipe that the last comparison here wrote, where that is known."""
    try:
        return str(json.loads(figures.read_text(encoding="utf-8"))["recipe_sha256"])
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return None


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
