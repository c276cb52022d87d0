"""Rows as they were read, by column, each knowing the line it came from; no role and no label is known here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final


class _Missing:
    """The type of MISSING."""

    def __repr__(self) -> str:
        return "MISSING"


CHUNK_ROWS = 10_000  # of a file that is read whole, at a time: rows take more memory before they are columns
MISSING: Final = _Missing()
"""The cell of a JSON object that has no such key; None is a null that was written."""


@dataclass
class Table:
    """Rows of one file or object, by column.

    Attributes:
        columns: cells by column name. CSV, TSV and text files give strings only; JSON, Parquet, `datasets` and pandas
            give Python values, with the integers of a ClassLabel already replaced by their names.
        origin: the file or object, for messages.
        lines: for each row the 1-based line it starts on (text files) or its row number.
        files: for each row the file it is, where every row is a file of its own.
    """

    columns: dict[str, list[Any]]
    origin: str
    lines: list[int]
    files: list[str] | None = None

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, row: int, column: str | None = None) -> str:
        """Return the place of a row, or of one of its cells: ``train.csv:17, column 'label'``."""
        place = self.files[row] if self.files is not None else f"{self.origin}:{self.lines[row]}"
        return place if column is None else f"{place}, column {column!r}"

    def followed_by(self, other: Table) -> Table:
        """Return these rows, and behind them those of another table; a column that one lacks is MISSING there."""
        columns = {
            name: self.columns.get(name, [MISSING] * len(self)) + other.columns.get(name, [MISSING] * len(other))
            for name in {**self.columns, **other.columns}
        }
        places = [table.where(row) for table in (self, other) for row in range(len(table))]
        return Table(columns, self.origin, self.lines + other.lines, places)

    def take(self, rows: Sequence[int]) -> Table:
        """Return some of the rows, in the order given."""
        return Table(
            {name: [cells[row] for row in rows] for name, cells in self.columns.items()},
            self.origin,
            [self.lines[row] for row in rows],
            None if self.files is None else [self.files[row] for row in rows],
        )


def joined(tables: Iterable[Table], origin: str) -> Table:
    """Return the rows of tables that are parts of one; a column that a part lacks is MISSING there.

    Where the parts come one by one, what each was made from goes before the next one comes.
    """
    whole = Table({}, origin, [])
    for table in tables:
        for name in table.columns:
            whole.columns.setdefault(name, [MISSING] * len(whole))
        for name, cells in whole.columns.items():
            cells += table.columns[name] if name in table.columns else [MISSING] * len(table)
        whole.lines += table.lines
    return whole


def from_records(records: Sequence[Mapping[str, Any]], lines: Iterable[int], origin: str) -> Table:
    """Turn rows given as mappings into a table over all their keys, MISSING where a row lacks one."""
    names = {str(name): name for record in records for name in record}
    columns = {shown: [record.get(name, MISSING) for record in records] for shown, name in names.items()}
    return Table(columns, origin, list(lines))
