"""Taking a finished run as it is: whether what it was made from is still what there is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nlp_transfer.artefact.record import read_record
from nlp_transfer.artefact.whole import check_whole
from nlp_transfer.encoder.source import locate
from nlp_transfer.errors import UserError
from nlp_transfer.running.teaching import lessons

if TYPE_CHECKING:
    from nlp_transfer.data.corpus import Corpus
    from nlp_transfer.running.folder import RunFolder
    from nlp_transfer.settings import EncoderSettings, Settings
    from nlp_transfer.terminal.console import Screen


def recall(folder: RunFolder, settings: Settings, corpus: Corpus, screen: Screen, *, whole: bool = True) -> None:
    """Take a finished run as it is, compared with what there is now of what it was made from.

    Args:
        folder: of the run.
        settings: of the run.
        corpus: its rows that there are now.
        screen: is told so, and what cannot be found now: the run is there all the same.
        whole: whether these are all of its rows; else they are not compared.

    Raises:
        UserError: if the run was made from something else.
    """
    if whole:
        folder.check_data(corpus)
    check_encoder(folder, settings.encoder, screen.tell)
    _check_lessons(folder, settings, corpus, screen.tell)
    folder.tidy()
    screen.console.print(f"{folder.path} is finished already; overwrite=true does it again")


def check_encoder(folder: RunFolder, settings: EncoderSettings, tell: Callable[[str], None]) -> None:
    """Refuse to read a finished run back for an encoder that has other weights now.

    Args:
        folder: of the run.
        settings: of the encoder, by which it is looked for now.
        tell: is told where it cannot be found: the run is there all the same.

    Raises:
        UserError: if the run was made from other weights.
    """
    try:
        source = locate(settings)
    except UserError as error:
        tell(f"not compared with the encoder, which cannot be found now: {error}")
        return
    folder.check_made_from("encoder", "sha256", source.sha256, "other encoder weights than the same name stands for")


def check_artefact(model: Path) -> None:
    """Refuse a saved model that lacks a file, or holds other weights than were saved; see ``whole.check_whole``."""
    check_whole(model, read_record(model))


def check_model(folder: RunFolder, check: Callable[[Path], None] = check_artefact) -> None:
    """Refuse to read a finished run back whose model is not as it was saved.

    Args:
        folder: of the run.
        check: refuses its model.

    Raises:
        UserError: naming the file that is missing, damaged or another one.
    """
    try:
        check(folder.model)
    except UserError as error:
        raise UserError(f"{error}; overwrite=true does the run again") from error


def _check_lessons(folder: RunFolder, settings: Settings, corpus: Corpus, tell: Callable[[str], None]) -> None:
    """Refuse to read a finished run back for another teacher, or other texts without labels."""
    try:
        others = lessons(settings, corpus)
    except UserError as error:
        tell(f"not compared with the teacher, which cannot be found now: {error}")
        return
    if others is not None:
        difference = "another teacher, or other texts without labels, than there are"
        folder.check_made_from("lessons", "sha256", others, difference)
