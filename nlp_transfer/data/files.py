"""Read one file into tables, whole or in chunks of bounded memory: path checks and format detection.

The formats themselves are in ``delimited``, ``jsonl`` and ``parquet``.
"""

from __future__ import annotations

import io
import json
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from nlp_transfer.data import delimited, jsonl
from nlp_transfer.data.paths import expanded, not_a_name
from nlp_transfer.data.table import CHUNK_ROWS, Table, joined
from nlp_transfer.data.textfile import decoded_lines
from nlp_transfer.errors import UserError, did_you_mean, one_of
from nlp_transfer.settings import DataSettings

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
}
STREAM_FORMATS = ("csv", "tsv", "jsonl", "text", "parquet")
_STREAM_ENDINGS = {
    "": "csv",
    **{ending: kind for ending, kind in FORMATS.items() if kind in STREAM_FORMATS},
    ".txt": "text",
}
ONE_FILE = "name one file"
_PACKED = (".zip", ".gz", ".bz2", ".xz", ".zst", ".7z", ".tar", ".tgz")


def read_rows(path: str | Path, settings: DataSettings, *, lines_are_texts: bool = False) -> Table:
    """Read one file whole.

    Args:
        path: of the file; its suffix decides the format.
        settings: the `data` group.
        lines_are_texts: whether .txt files are read, too, one text per line.

    Raises:
        UserError: for a file that does not exist, has an unknown suffix, or is malformed (with the line).
    """
    file = existing_file(path)
    formats = FORMATS | ({".txt": "text"} if lines_are_texts else {})
    kind = formats.get(file.suffix.lower())
    if kind is None:
        hint = "unpack it first" if file.suffix.lower() in _PACKED else f"known endings: {', '.join(formats)}"
        ending = repr(file.suffix) if file.suffix else "nothing"
        raise UserError(f"{file}: files that end in {ending} are not read; {hint}")
    if kind == "parquet":
        from nlp_transfer.data import parquet  # needs numpy; settings are checked without

        return parquet.read_parquet(file, str(file))
    with opened(file) as (binary, origin):
        lines = decoded_lines(binary, encoding=settings.encoding, origin=origin)
        if kind == "json":
            return jsonl.read_json(lines, origin=origin)
        if kind in delimited.DELIMITERS:
            lines = _without_json(lines, kind, origin, "give the file the ending .jsonl")
        return joined(_tables(lines, kind, settings.delimiter, origin, CHUNK_ROWS), origin)


def stream_format(name: str, format: str) -> str:
    """Return the format in which rows are streamed: the given one, or for auto the one of the file's suffix.

    Args:
        name: of the file, or ``-`` for standard input, which is CSV.
        format: a stream format, or auto.

    Raises:
        UserError: for an unknown format or suffix.
    """
    if format != "auto":
        return one_of(format, STREAM_FORMATS, "predict.format")
    suffix = "" if name == "-" else Path(name).suffix.lower()
    if suffix not in _STREAM_ENDINGS:
        endings = ", ".join(filter(None, _STREAM_ENDINGS))
        raise UserError(
            f"{name}: the rows to label come in files that end in {endings}, or in nothing, which is CSV; "
            f"convert or unpack it, or say what it holds with predict.format={' | '.join(STREAM_FORMATS)}"
        )
    return _STREAM_ENDINGS[suffix]


def stream_rows(
    source: str | Path | BinaryIO,
    *,
    format: str,
    encoding: str = "utf-8",
    delimiter: str | None = None,
    chunk_rows: int = 2048,
) -> Iterator[Table]:
    """Yield the rows of a file in reading order, never holding more than one chunk.

    Args:
        source: a path, ``-`` for standard input, or a file opened in binary mode.
        format: csv, tsv, jsonl, parquet, or text: one text per line (an empty line is an empty text).
        encoding: of the file.
        delimiter: between cells; None: a comma for csv, a tab for tsv.
        chunk_rows: maximum rows of a table.

    Raises:
        UserError: as `read_rows`, and for JSON lines where a header is expected; complete chunks before the malformed
            row have been yielded.
    """
    one_of(format, STREAM_FORMATS, "predict.format")
    with opened(source) as (binary, origin):
        if format == "parquet":
            from nlp_transfer.data import parquet  # needs numpy; settings are checked without

            yield from parquet.parquet_chunks(binary, origin, chunk_rows)
            return
        lines = decoded_lines(binary, encoding=encoding, origin=origin, is_text=format == "text")
        if format in delimited.DELIMITERS:
            lines = _without_json(lines, format, origin, "set predict.format=jsonl")
        yield from _tables(lines, format, delimiter, origin, chunk_rows)


def _tables(
    lines: Iterator[str], kind: str, delimiter: str | None, origin: str, chunk_rows: int | None
) -> Iterator[Table]:
    if kind == "jsonl":
        return jsonl.read_json_lines(lines, origin=origin, chunk_rows=chunk_rows)
    if kind == "text":
        return _text_lines(lines, origin, chunk_rows)
    return delimited.read_delimited(
        lines,
        delimiter=delimited.DELIMITERS[kind] if delimiter is None else delimiter,
        origin=origin,
        chunk_rows=chunk_rows,
    )


def _without_json(lines: Iterator[str], kind: str, origin: str, todo: str) -> Iterator[str]:
    """Return the lines; refuse a JSON object in the place of the header, which would become the column names."""
    first: list[str] = []
    for line in lines:
        first.append(line)
        if line.strip():
            break
    if first and first[-1].lstrip().startswith("{"):
        try:
            header = json.loads(first[-1])
        except (ValueError, RecursionError):
            header = None
        if isinstance(header, dict):
            raise UserError(f"{origin}:{len(first)} is a JSON object where {kind.upper()} has its header; {todo}")
    return chain(first, lines)


def _text_lines(lines: Iterator[str], origin: str, chunk_rows: int | None) -> Iterator[Table]:
    texts: list[str] = []
    numbers: list[int] = []
    for number, line in enumerate(lines, 1):
        if len(texts) == chunk_rows:
            yield Table({"text": texts}, origin, numbers)
            texts, numbers = [], []
        texts.append(line.rstrip("\r\n"))
        numbers.append(number)
    if texts:
        yield Table({"text": texts}, origin, numbers)


@contextmanager
def opened(source: str | Path | BinaryIO) -> Iterator[tuple[BinaryIO, str]]:
    """Open a path, or use an open binary file; yield it with its name for messages."""
    if source == "-":
        yield sys.stdin.buffer, "standard input"
    elif isinstance(source, str | Path):
        path = existing_file(source)
        try:
            file = path.open("rb")
        except OSError as error:
            raise UserError(f"{path} cannot be opened: {error.strerror}") from error
        with file:
            yield file, str(path)
    elif isinstance(source, io.TextIOBase):
        raise UserError("the rows come from a file opened in text mode; open it in binary mode ('rb')")
    else:
        is_stdin = source is getattr(sys.stdin, "buffer", None)
        yield source, "standard input" if is_stdin else str(getattr(source, "name", "<stream>"))


def existing_file(path: str | Path, *, pattern: str = ONE_FILE) -> Path:
    """Return a path to a regular file, `~` expanded; see `existing`."""
    file = existing(path, pattern=pattern)
    if file.is_dir():
        raise UserError(f"{file} is a folder where a file is expected")
    return file


def existing(path: str | Path, *, pattern: str = ONE_FILE) -> Path:
    """Return a path to a regular file or a folder, `~` expanded.

    Args:
        path: as the user wrote it.
        pattern: what to do instead of giving a glob pattern, for the message.

    Raises:
        UserError: for a URL, and for a path that does not exist, cannot be accessed, or is a pipe or a device.
    """
    if "://" in str(path):
        raise UserError(f"{path} is a URL; download the file first, or use data=hub for a data set on the Hub")
    found = expanded(path)
    try:
        mode = found.stat().st_mode
    except FileNotFoundError:
        if found.is_symlink():
            raise UserError(f"{found} is a link to {found.readlink()}, which does not exist") from None
        if any(mark in str(path) for mark in "*?"):
            raise UserError(f"{path} is a pattern, and no file has this name; {pattern}") from None
        raise UserError(f"{found} does not exist{did_you_mean(found.name, _names_in(found.parent))}") from None
    except ValueError:  # a NUL byte, or half of a surrogate pair
        raise UserError(not_a_name(str(path))) from None
    except OSError as error:
        raise UserError(f"{found} cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UserError(f"{found} is neither a file nor a folder (a pipe or device); write its rows to a file first")
    return found


def visible(folder: Path) -> list[Path]:
    """Return the items of a folder that are not hidden, sorted by name.

    Raises:
        UserError: if the folder cannot be read.
    """
    try:
        items = sorted(item for item in folder.iterdir() if not item.name.startswith("."))
        for item in items[:1]:
            item.lstat()  # permission to list a folder does not imply permission to open its files
    except OSError as error:
        raise UserError(f"{folder} cannot be opened: {error.strerror}") from error
    return items


def is_of_rows(path: Path) -> bool:
    """Return whether this is an existing file in a format that `read_rows` reads."""
    return path.suffix.lower() in FORMATS and path.is_file()


def _names_in(folder: Path) -> list[str]:
    """Return the names in a folder; an empty list where it does not exist or cannot be read."""
    try:
        return [item.name for item in folder.iterdir()]
    except OSError:
        return []
