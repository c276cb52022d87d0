"""A table of rows as they were read, by column, with the source line of each row."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from typing import Any

from nlp_transfer.data import sequences
from nlp_transfer.data.missing import MISSING

CHUNK_ROWS = 10_000  # files are read in chunks, because unconverted rows take more memory than columns


@dataclass
class Table:
    """Rows of one file or object, by column.

    Attributes:
        columns: cells by column name. CSV, TSV and text files give strings only; JSON, Parquet, `datasets` and pandas
            give Python values, with the integers of a ClassLabel already replaced by their names.
        origin: the file or object, for messages.
        lines: for each row the 1-based line it starts on (text files) or its row number.
        files: the place of each row, if rows come from several files: the path, with the line if a file has many rows.
        header: the line of the header; None: the format has none (JSON, Parquet, ...).
    """

    columns: Mapping[str, Sequence[Any]]
    origin: str
    lines: Sequence[int]
    files: Sequence[str] | None = None
    header: int | None = None

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, row: int, column: str | None = None) -> str:
        """Return the place of a row or cell for messages: ``train.csv:17, column 'label'``."""
        place = self.files[row] if self.files is not None else f"{self.origin}:{self.lines[row]}"
        return place if column is None else f"{place}, column {column!r}"

    def followed_by(self, other: Table) -> Table:
        """Return these rows followed by those of another table; cells of a column that one lacks are MISSING."""
        names = {**self.columns, **other.columns}
        columns = {name: sequences.concatenated(self._cells(name), other._cells(name)) for name in names}
        places = (table.where(row) for table in (self, other) for row in range(len(table)))
        files = sequences.cells_of(places, len(self) + len(other))
        return Table(columns, self.origin, sequences.concatenated(self.lines, other.lines), files, self.header)

    def _cells(self, column: str) -> Sequence[Any]:
        return self.columns[column] if column in self.columns else sequences.cells_of(_missing(len(self)), len(self))

    def take(self, rows: Sequence[int]) -> Table:
        """Return the rows at these indices, in the order given."""
        return Table(
            {name: sequences.take(cells, rows) for name, cells in self.columns.items()},
            self.origin,
            sequences.take(self.lines, rows),
            None if self.files is None else sequences.take(self.files, rows),
            self.header,
        )


def joined(tables: Iterable[Table], origin: str) -> Table:
    """Concatenate tables; cells of a column that one lacks are MISSING.

    Tables are consumed one by one, so that each can be freed before the next one is read.
    """
    columns: dict[str, Any] = {}
    lines: Any = []
    header = None
    empty: Callable[[], Any] = list
    for table in tables:
        if isinstance(lines, list) and len(lines) + len(table) >= sequences.MANY_ROWS:
            from nlp_transfer.data.compact import CompactCells, Heap  # need numpy; settings are checked without

            empty, lines = partial(CompactCells, heap=Heap()), array("q", lines)
            for name, cells in columns.items():
                columns[name] = empty()
                columns[name].extend(cells)
        for name in table.columns:
            if name not in columns:
                columns[name] = empty()
                columns[name].extend(_missing(len(lines)))
        for name, cells in columns.items():
            cells.extend(table.columns[name] if name in table.columns else _missing(len(table)))
        lines.extend(table.lines)
        header = table.header
    return Table(columns, origin, lines, header=header)


def _missing(count: int) -> Iterable[Any]:
    return repeat(MISSING, count)


def from_records(
    records: Sequence[Mapping[str, Any]], lines: Iterable[int], origin: str, known: Iterable[str] = ()
) -> Table:
    """Turn rows given as mappings into a table over all their keys, MISSING where a row lacks one.

    Args:
        records: the rows.
        lines: the line or number of each.
        origin: the file or object, for messages.
        known: columns that the table always has, before the others.
    """
    names = {str(name): name for name in chain(known, chain.from_iterable(records))}
    columns = {column: [record.get(name, MISSING) for record in records] for column, name in names.items()}
    return Table(columns, origin, list(lines))
