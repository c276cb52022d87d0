"""Read folders of .txt files: one folder for each class, one file for each text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from nlp_transfer.data.files import FORMATS, opened, visible
from nlp_transfer.data.table import Table
from nlp_transfer.data.textfile import decoded_lines
from nlp_transfer.errors import UserError
from nlp_transfer.settings import DataSettings
from nlp_transfer.wording import listed

_SHOWN = 3


def is_text(item: Path) -> bool:
    """Return whether this is a file that is read as one text."""
    return item.suffix.lower() == ".txt" and item.is_file()


def within_folders(folder: Path) -> Iterator[Path]:
    """Yield the items in the subfolders of a folder, sorted by name."""
    return chain.from_iterable(visible(item) for item in visible(folder) if item.is_dir())


def read_class_folders(folder: Path, root: Path, settings: DataSettings, unread: list[str]) -> Table:
    """Read one folder of .txt files per class: the folder's name is the label, a file the text without a final newline.

    The path relative to `root` is the id; the names of other items are added to `unread`.

    Raises:
        UserError: if there is no such file, or one cannot be read.
    """
    columns: dict[str, list[Any]] = {"text": [], "label": [], "id": []}
    files, other = [], []
    for item in within_folders(folder):
        if not is_text(item):
            other.append(f"{item.relative_to(root)}{'/' * item.is_dir()}")
            continue
        with opened(item) as (binary, origin):
            text = "".join(decoded_lines(binary, encoding=settings.encoding, origin=origin, is_text=True))
        end = next((mark for mark in ("\r\n", "\n", "\r") if text.endswith(mark)), "")
        columns["text"].append(text.removesuffix(end))
        columns["label"].append(item.parent.name)
        columns["id"].append(item.relative_to(root).as_posix())
        files.append(str(item))
    if not files:
        held = listed(other, most=_SHOWN) or "nothing"
        rows, todo = "files called train.*, validation.*, test.*", ""
        if folder != root:
            rows, todo = "files of rows", f"; if {folder.name} is not a split, call the folder something else"
        raise UserError(
            f"{folder} has neither {rows} ({', '.join(FORMATS)}) nor folders of .txt files, one folder per class; its "
            f"folders hold {held}, but texts are read from files that end in .txt only{todo}"
        )
    unread += other
    return Table(columns, str(folder), list(range(1, len(files) + 1)), files)
