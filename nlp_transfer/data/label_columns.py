"""Labels in columns of their own: several columns of 0 and 1 become one column of lists of names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from nlp_transfer.data.labels import name_of
from nlp_transfer.data.sequences import cells_of
from nlp_transfer.data.table import Table
from nlp_transfer.errors import UserError, did_you_mean
from nlp_transfer.settings import DataSettings
from nlp_transfer.wording import listed

JOINED = "labels"  # name of the column of lists
_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


def check_label_columns(settings: DataSettings) -> None:
    """Check the setting `label_columns`.

    Raises:
        UserError: for fewer than two columns, repeated ones, or settings of labels in one column beside them.
    """
    names = settings.label_columns
    if names is None:
        return
    if len(names) < 2 or len(set(names)) < len(names):
        raise UserError(f"data.label_columns={names} must name at least two different columns")
    others = {"columns.label": settings.columns.label, "label_separator": settings.label_separator}
    for key, value in others.items():
        if value is not None:
            raise UserError(f"data.{key}={value} is for labels in one column; remove it, or data.label_columns")
    if settings.problem not in ("auto", "multi_label"):
        raise UserError(
            f"data.label_columns is for several labels per row, but data.problem={settings.problem}; leave it "
            "out, or set data.problem=multi_label"
        )


def join_label_columns(table: Table, names: Sequence[str]) -> Table:
    """Return the table with these columns joined into one of lists, called `JOINED`.

    Raises:
        UserError: for a column that the table lacks, one that is called like the new column, and a cell that is neither
            0 nor 1.
    """
    for name in names:
        if name not in table.columns:
            raise UserError(
                f"{table.origin} has no column {name!r} of data.label_columns{did_you_mean(name, table.columns)}; its "
                f"columns: {listed(list(table.columns), repr)}"
            )
    others = {name: cells for name, cells in table.columns.items() if name not in names}
    if JOINED in others:
        raise UserError(
            f"{table.origin} has a column {JOINED!r} beside those of data.label_columns: rename it, or set "
            f"data.label_columns=null and data.columns.label={JOINED}"
        )
    return dataclasses.replace(table, columns=others | {JOINED: cells_of(_lists(table, names), len(table))})


def settings_of_joined(settings: DataSettings) -> DataSettings:
    """Return the settings that read a table after `join_label_columns`."""
    columns = dataclasses.replace(settings.columns, label=JOINED)
    return dataclasses.replace(settings, columns=columns, label_columns=None, problem="multi_label")


def holds_flags(cells: Sequence[Any]) -> bool:
    """Return whether all cells are 0 or 1, as numbers, texts or booleans, as where every label has its own column."""
    return all(_flag(cell) is not None for cell in cells)


def _flag(cell: Any) -> bool | None:
    """Return whether a cell is 1; None if it is neither 0 nor 1."""
    return _FLAGS.get((name_of(cell) or "").casefold())


def _lists(table: Table, names: Sequence[str]) -> Iterator[list[str]]:
    """Yield the names of the columns with a 1 in each row."""
    for row, cells in enumerate(zip(*(table.columns[name] for name in names), strict=True)):
        flags = [_flag(cell) for cell in cells]
        for name, cell, flag in zip(names, cells, flags, strict=True):
            if flag is None:
                raise UserError(
                    f"{table.where(row, name)}: {cell!r} is neither 0 nor 1, which data.label_columns needs; correct "
                    "it, or remove the row"
                )
        yield [name for name, flag in zip(names, flags, strict=True) if flag]
