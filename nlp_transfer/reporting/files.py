"""Writing of pages; only earlier pages are overwritten."""

from __future__ import annotations

from pathlib import Path

from nlp_transfer.artefact.places import PAGES
from nlp_transfer.errors import UserError
from nlp_transfer.machine.disk import reason, write_whole
from nlp_transfer.reporting import html_page, markdown_page
from nlp_transfer.reporting.document import Document

_FORMS = {".html": html_page, ".md": markdown_page}
_HEAD = 400  # characters that contain the mark of a page


def check_target(path: Path) -> None:
    """Check that a page can be written to a path, before anything is computed.

    Raises:
        UserError: for an ending other than .html or .md, a missing folder, and an existing file that is not a page.
    """
    form = _FORMS.get(path.suffix)
    if form is None:
        raise UserError(f"report.output={path} must end in .html or .md")
    if not path.parent.is_dir():
        raise UserError(f"report.output={path}: there is no folder {path.parent}")
    if path.is_dir() or (path.exists() and form.MARK not in _start(path)):
        raise UserError(f"{path} exists and is not a report of nlp-transfer; it is not overwritten")


def write(document: Document, path: Path) -> None:
    """Write a page atomically, as HTML or Markdown by the ending of its name.

    Raises:
        UserError: if it cannot be written.
    """
    text = _FORMS[path.suffix].render(document)
    try:
        write_whole(path, lambda making: making.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {reason(error)}") from error


def write_pages(document: Document, folder: Path) -> None:
    """Write the document in every format to a folder; see `write`."""
    for name in PAGES:
        write(document, folder / name)


def _start(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            return lines.read(_HEAD)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error
