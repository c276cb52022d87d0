"""Strict reading of CSV and TSV: every cell stays a string, and every row must have as many cells as the header."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, TextIO

from nlp_transfer.data.hints import shell_word
from nlp_transfer.data.table import Table
from nlp_transfer.errors import UserError

TAB, ESCAPED_TAB = "\t", r"\t"
DELIMITERS = {"csv": ",", "tsv": TAB}


def read_delimited(
    lines: Iterator[str], *, delimiter: str, origin: str, chunk_rows: int | None = None
) -> Iterator[Table]:
    """Yield the rows below the header in tables of `chunk_rows` rows (None: one table), at least one table.

    A cell that starts with a double quote ends with one, and a double quote inside it is doubled (RFC 4180). Empty
    lines are skipped.

    Raises:
        UserError: with file and line, for a row that does not match the header.
    """
    # The csv module's limit of 131,072 characters per cell is global; raising it does not affect other users.
    csv.field_size_limit(sys.maxsize)
    delimiter = delimiter_of(delimiter)
    records = _records(lines, delimiter, origin)
    first = next(records, None)
    if first is None:
        raise UserError(f"{origin} is empty; its first line must name the columns, for example text,label")
    header = _checked_header(*first, delimiter=delimiter, origin=origin)
    table, columns, numbers = _empty(header, origin, first[0])
    has_yielded = False
    for line, cells in records:
        if len(cells) != len(header):
            raise UserError(_width_error(f"{origin}:{line}", cells, header, delimiter))
        if chunk_rows is not None and len(table) == chunk_rows:
            yield table
            has_yielded = True
            table, columns, numbers = _empty(header, origin, first[0])
        numbers.append(line)
        for column, cell in zip(columns, cells, strict=True):
            column.append(cell)
    if len(table) or not has_yielded:
        yield table


def _empty(header: list[str], origin: str, line: int) -> tuple[Table, list[list[str]], list[int]]:
    """Return an empty table, and its columns and line numbers to append to."""
    columns: dict[str, list[str]] = {name: [] for name in header}
    numbers: list[int] = []
    return Table(columns, origin, numbers, header=line), list(columns.values()), numbers


def delimiter_of(delimiter: str) -> str:
    """Return the delimiter character; a backslash and t, as typed in a shell, means a tab.

    Raises:
        UserError: for anything that cannot separate cells.
    """
    character = TAB if delimiter == ESCAPED_TAB else delimiter
    if len(character) != 1 or character in '"\r\n':
        examples = " or ".join(shell_word("data.delimiter", mark) for mark in (";", ESCAPED_TAB))
        raise UserError(f"data.delimiter={delimiter!r} must be one character; in a shell: {examples}")
    return character


def _records(lines: Iterator[str], delimiter: str, origin: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line the record starts on, its cells)."""
    ends: dict[str, str] = {}  # line ends of the first row and of the line read last
    reader = csv.reader(_recording_ends(lines, ends), delimiter=delimiter, strict=True)
    start = 1
    try:
        for cells in reader:
            if cells:
                if ends["last"] and ends.setdefault("first", ends["last"]) != ends["last"]:
                    raise UserError(_end_error(f"{origin}:{reader.line_num}"))
                yield start, cells
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(_quote_error(str(error), origin, start, reader.line_num)) from error


def _recording_ends(lines: Iterator[str], ends: dict[str, str]) -> Iterator[str]:
    """Yield the lines, and record the line end of the latest one in `ends`."""
    for line in lines:
        ends["last"] = line[-1] if line[-1] in "\r\n" else ""
        yield line


def _end_error(place: str) -> str:
    return (
        f"{place}: some rows end in a line feed, others in a carriage return alone; a text that contains one must "
        "stand in double quotes"
    )


def _quote_error(message: str, origin: str, start: int, line: int) -> str:
    """Explain an error of the csv module."""
    rule = 'a cell that starts with a double quote must end with one, and quotes inside it are doubled ("")'
    if "unexpected end" in message:
        return f"{origin}:{start}: a quote that opens in this row is never closed; {rule}"
    row = "" if line == start else f" (the row starts on line {start})"
    return f"{origin}:{line}: text follows a closing quote{row}; {rule}, not escaped by a backslash"


def _checked_header(line: int, cells: list[str], *, delimiter: str, origin: str) -> list[str]:
    """Return the column names."""
    place = f"{origin}:{line}"
    if len(line_text := "".join(cells)) <= 5 and line_text.lower().startswith("sep="):
        mark = line_text[4:] or delimiter
        raise UserError(
            f"{place} tells Excel that cells are separated by {mark!r}: delete this line, and "
            f"set {shell_word('data.delimiter', mark.replace(TAB, ESCAPED_TAB))}"
        )
    if len(cells) == 1:
        other = next((mark for mark in f";{TAB}|," if mark != delimiter and mark in cells[0]), None)
        if other is not None:
            raise UserError(
                f"{place}: the header is one column, {cells[0]!r}; if the cells are separated by {other!r} "
                f"set {shell_word('data.delimiter', other.replace(TAB, ESCAPED_TAB))}"
            )
    repeated = [name for name, count in Counter(cells).items() if count > 1]
    if repeated and not repeated[0]:
        raise UserError(
            f"{place}: {cells.count('')} columns have no name; give each one, or delete them with their cells"
        )
    if repeated:
        raise UserError(f"{place}: the header names the column {repeated[0]!r} more than once; rename one")
    return cells


def _width_error(place: str, cells: list[str], header: list[str], delimiter: str) -> str:
    """Explain how a row differs from the header."""
    expected = f"{place}: {len(cells)} cells where the header has {len(header)} ({', '.join(header)})"
    if len(cells) < len(header):
        return f"{expected}; no cell for column {header[len(cells)]!r}"
    if not any(cells[len(header) :]):
        return f"{expected}; delete every {delimiter!r} at the end of the rows, or name a column for each in the header"
    quotes = f"a text that contains {delimiter!r} must stand in double quotes"
    if len(header) == 1:
        return f"{expected}; {quotes}, and where the header stands further down, delete what is above it"
    return f"{expected}; {quotes}, and each column must have a name"


class _Lines:
    r"""A file for csv.writer that turns \r\n line ends into \n; with \r\n the csv module quotes cells with \r or \n."""

    def __init__(self, out: TextIO) -> None:
        self.out = out

    def write(self, line: str) -> int:
        return self.out.write(line.removesuffix("\r\n") + "\n")


def cell_writer(out: TextIO, delimiter: str) -> Any:
    """Return a csv.writer whose output `read_delimited` reads back unchanged."""
    return csv.writer(_Lines(out), delimiter=delimiter)
