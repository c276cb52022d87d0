"""Reusing a finished run: checks that data, encoder and teacher are still those it was made from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nlp_transfer.artefact.record import read_record
from nlp_transfer.artefact.whole import check_whole
from nlp_transfer.encoder.source import locate
from nlp_transfer.errors import UserError
from nlp_transfer.running.auxiliary import auxiliary_digest

if TYPE_CHECKING:
    from nlp_transfer.data.corpus import Corpus
    from nlp_transfer.running.folder import RunFolder
    from nlp_transfer.settings import EncoderSettings, Settings
    from nlp_transfer.terminal.console import Screen


def reuse(folder: RunFolder, settings: Settings, corpus: Corpus, screen: Screen, *, whole: bool = True) -> None:
    """Check that a finished run was made from the present data, encoder and teacher, and tidy its folder.

    Args:
        folder: of the run.
        settings: of the run.
        corpus: its present rows.
        screen: shows that the run is finished, and what could not be found and was not compared.
        whole: whether `corpus` has all rows of the run; else they are not compared.

    Raises:
        UserError: if the run was made from something else.
    """
    if whole:
        folder.check_data(corpus)
    check_encoder(folder, settings.encoder, screen.tell)
    _check_auxiliary(folder, settings, corpus, screen.tell)
    folder.tidy()
    screen.console.print(f"{folder.path} is finished already; overwrite=true repeats it")


def check_encoder(folder: RunFolder, settings: EncoderSettings, tell: Callable[[str], None]) -> None:
    """Check that a finished run was made from the present weights of the encoder.

    Args:
        folder: of the run.
        settings: of the encoder.
        tell: prints a warning if the encoder cannot be found, which is no error.

    Raises:
        UserError: if the run was made from other weights.
    """
    try:
        source = locate(settings)
    except UserError as error:
        tell(f"not compared with the encoder, which cannot be found now: {error}")
        return
    folder.check_made_from("encoder", "sha256", source.sha256, "other weights of the encoder")


def check_artefact(model: Path) -> None:
    """Check that no file of a saved model is missing and its weights are unchanged; see ``whole.check_whole``."""
    check_whole(model, read_record(model))


def check_model(folder: RunFolder, check: Callable[[Path], None] = check_artefact) -> None:
    """Check that the model of a finished run is as it was saved.

    Args:
        folder: of the run.
        check: raises a UserError if the model in a folder is not.

    Raises:
        UserError: naming the file that is missing, damaged or changed.
    """
    try:
        check(folder.model)
    except UserError as error:
        raise UserError(f"{error}; overwrite=true repeats the run") from error


def _check_auxiliary(folder: RunFolder, settings: Settings, corpus: Corpus, tell: Callable[[str], None]) -> None:
    """Check that a finished run was made with the present teacher and unlabelled texts."""
    try:
        digest = auxiliary_digest(settings, corpus)
    except UserError as error:
        tell(f"not compared with the teacher, which cannot be found now: {error}")
        return
    if digest is not None:
        difference = "another teacher or other unlabelled texts"
        folder.check_made_from("lessons", "sha256", digest, difference)
