"""The style of tables of figures on a terminal, and what replaces them on a narrow one."""

from __future__ import annotations

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

_LEAST = 10  # characters to which a column whose cells may be broken may be narrowed
COLOURS = {"better": "green", "no evidence": "yellow", "worse": "red"}


def simple_table(title: str | Text | None = None, *, gap: int = 1) -> Table:
    """Return an empty table whose only line is below the header; `gap` is the space between columns."""
    return Table(
        title=title,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
        padding=(0, gap, 0, 0),
    )


def print_table(table: Table, console: Console, *, gap: int = 1) -> None:
    """Print a table; if the console is too narrow for it, its rows one below the other, a line for each cell.

    Args:
        table: of strings and `Text`, as `simple_table` returned it, with the names of its rows in the first column.
        console: where to print.
        gap: the space between columns.
    """
    widths = [_least_width(column) for column in table.columns]
    if sum(widths) + (gap + 1) * (len(widths) - 1) + 2 <= console.width:  # with the edges, and lines between columns
        console.print(table)
        return
    if table.title:
        console.print(table.title, style="bold")
    first, *others = table.columns
    names = [" ".join(_plain(column.header).split()) for column in others]
    for row, name, *cells in zip(table.rows, first.cells, *(column.cells for column in others), strict=True):
        style = row.style or ""
        console.print(" ".join(_plain(name).split()), style=f"bold {style}".strip())
        for column, cell in zip(names, cells, strict=True):
            if text := " ".join(_plain(cell).split()):
                console.print(f"  {column}: {text}", style=style)


def _least_width(column: Column) -> int:
    """Return the width that a column needs."""
    cells = [_plain(cell) for cell in (column.header, *column.cells)]
    widest = max((cell_len(line) for cell in cells for line in cell.splitlines()), default=0)
    return widest if column.no_wrap else min(widest, _LEAST)


def _plain(cell: object) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)
