"""Where pages are written, and what they never replace."""

from __future__ import annotations

from pathlib import Path

from nlp_transfer.artefact.places import PAGES
from nlp_transfer.errors import UserError
from nlp_transfer.machine.disk import reason, write_whole
from nlp_transfer.reporting import page, plain_text
from nlp_transfer.reporting.document import Document

_FORMS = {".html": page, ".md": plain_text}
_HEAD = 400  # characters in which the mark of a page stands


def check_target(path: Path) -> None:
    """Refuse a file that cannot become a page, before anything is computed for it.

    Raises:
        UserError: for another ending than .html or .md, a folder that is not there, and a file that is no such page.
    """
    form = _FORMS.get(path.suffix)
    if form is None:
        raise UserError(f"report.output={path} must end in .html or .md")
    if not path.parent.is_dir():
        raise UserError(f"report.output={path}: there is no folder {path.parent}")
    if path.is_dir() or (path.exists() and form.MARK not in _start(path)):
        raise UserError(f"{path} exists and is no report of ours; nothing is written over it")


def write(document: Document, path: Path) -> None:
    """Write a page, as HTML or as Markdown by the ending of its name; whole or not at all.

    Raises:
        UserError: if it cannot be written.
    """
    text = _FORMS[path.suffix].render(document)
    try:
        write_whole(path, lambda making: making.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {reason(error)}") from error


def write_pages(document: Document, folder: Path) -> None:
    """Write the pages of a folder, one a form; see `write`."""
    for name in PAGES:
        write(document, folder / name)


def _start(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            return lines.read(_HEAD)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error
