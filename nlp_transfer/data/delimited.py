"""CSV and TSV, strictly: every cell stays the text it is, every row has the header's width; it knows no role."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, TextIO

from nlp_transfer.data.hints import typed
from nlp_transfer.data.table import Table
from nlp_transfer.errors import UserError

TAB, TYPED_TAB = "\t", r"\t"
DELIMITERS = {"csv": ",", "tsv": TAB}


def read_delimited(
    lines: Iterator[str], *, delimiter: str, origin: str, chunk_rows: int | None = None
) -> Iterator[Table]:
    """Yield the rows below the header in tables of `chunk_rows` rows (None: one table), at least one table.

    A cell that starts with a double quote ends with one, and a double quote inside it is written twice (RFC 4180). A
    line with nothing on it is no row.

    Raises:
        UserError: with file and line, for any other row than the header promises.
    """
    # The limit of 131,072 characters a cell is global in the csv module; raising it takes nothing from other users.
    csv.field_size_limit(sys.maxsize)
    delimiter = delimiter_of(delimiter)
    records = _records(lines, delimiter, origin)
    first = next(records, None)
    if first is None:
        raise UserError(f"{origin} is empty; its first line must name the columns, for example text,label")
    header = _checked_header(*first, delimiter=delimiter, origin=origin)
    table, columns, numbers = _empty(header, origin, first[0])
    yielded = False
    for line, cells in records:
        if len(cells) != len(header):
            raise UserError(_width_error(f"{origin}:{line}", cells, header, delimiter))
        if chunk_rows is not None and len(table) == chunk_rows:
            yield table
            yielded = True
            table, columns, numbers = _empty(header, origin, first[0])
        numbers.append(line)
        for column, cell in zip(columns, cells, strict=True):
            column.append(cell)
    if len(table) or not yielded:
        yield table


def _empty(header: list[str], origin: str, line: int) -> tuple[Table, list[list[str]], list[int]]:
    """Return a table without rows, and the columns and the lines of it, which grow."""
    columns: dict[str, list[str]] = {name: [] for name in header}
    numbers: list[int] = []
    return Table(columns, origin, numbers, header=line), list(columns.values()), numbers


def delimiter_of(delimiter: str) -> str:
    """Return the one character between cells; a backslash and t, as one types it in a shell, is a tab.

    Raises:
        UserError: for anything that cannot stand between cells.
    """
    character = TAB if delimiter == TYPED_TAB else delimiter
    if len(character) != 1 or character in '"\r\n':
        examples = " or ".join(typed("data.delimiter", mark) for mark in (";", TYPED_TAB))
        raise UserError(f"data.delimiter={delimiter!r} must be one character; in a shell: {examples}")
    return character


def _records(lines: Iterator[str], delimiter: str, origin: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line the record starts on, its cells)."""
    ends: dict[str, str] = {}  # of the first row, and of the line read last
    reader = csv.reader(_noting_ends(lines, ends), delimiter=delimiter, strict=True)
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


def _noting_ends(lines: Iterator[str], ends: dict[str, str]) -> Iterator[str]:
    """Yield the lines; note the last character of each that ends one."""
    for line in lines:
        ends["last"] = line[-1] if line[-1] in "\r\n" else ""
        yield line


def _end_error(place: str) -> str:
    return (
        f"{place}: some rows end in a line feed, others in a carriage return alone; a text that contains one must "
        "stand in double quotes"
    )


def _quote_error(message: str, origin: str, start: int, line: int) -> str:
    """Say in a user's words what the csv module found."""
    rule = 'a cell that starts with a double quote must end with one, and quotes inside it are doubled ("")'
    if "unexpected end" in message:
        return f"{origin}:{start}: a quote that opens in this row is never closed; {rule}"
    row = "" if line == start else f" (the row starts on line {start})"
    return f"{origin}:{line}: text follows a closing quote{row}; {rule}, not escaped by a backslash"


def _checked_header(line: int, cells: list[str], *, delimiter: str, origin: str) -> list[str]:
    """Return the column names."""
    place = f"{origin}:{line}"
    if len(told := "".join(cells)) <= 5 and told.lower().startswith("sep="):
        mark = told[4:] or delimiter
        raise UserError(
            f"{place} tells Excel that cells are separated by {mark!r}: delete this line, and "
            f"set {typed('data.delimiter', mark.replace(TAB, TYPED_TAB))}"
        )
    if len(cells) == 1:
        other = next((mark for mark in f";{TAB}|," if mark != delimiter and mark in cells[0]), None)
        if other is not None:
            raise UserError(
                f"{place}: the header is one column, {cells[0]!r}; if the cells are separated by {other!r} "
                f"set {typed('data.delimiter', other.replace(TAB, TYPED_TAB))}"
            )
    twice = [name for name, count in Counter(cells).items() if count > 1]
    if twice and not twice[0]:
        raise UserError(
            f"{place}: {cells.count('')} columns have no name; give each one, or delete them with their cells"
        )
    if twice:
        raise UserError(f"{place}: the header names the column {twice[0]!r} more than once; rename one")
    return cells


def _width_error(place: str, cells: list[str], header: list[str], delimiter: str) -> str:
    """Say how a row differs from the header."""
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
    r"""What the csv module writes to: its lines end in \r\n, so that it quotes a cell with either; ours end in \n."""

    def __init__(self, out: TextIO) -> None:
        self.out = out

    def write(self, line: str) -> int:
        return self.out.write(line.removesuffix("\r\n") + "\n")


def cell_writer(out: TextIO, delimiter: str) -> Any:
    """Return a csv.writer whose lines are read back as they were written."""
    return csv.writer(_Lines(out), delimiter=delimiter)
