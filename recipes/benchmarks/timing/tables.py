"""Tables on standard output, for a terminal or as Markdown."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

WIDTH = 220  # columns, where standard output is no terminal


def markdown_row(cells: Iterable[str]) -> str:
    """Return one row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def markdown_header(columns: Sequence[str]) -> str:
    """Return the two lines that begin a Markdown table."""
    return f"{markdown_row(columns)}\n{'|---' * len(columns)}|"


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], note: str, *, markdown: bool) -> None:
    """Print a table with a note; on a terminal a first cell that repeats the one above is left empty."""
    if not rows:
        return
    if markdown:
        print("\n" + "\n".join([markdown_header(columns), *map(markdown_row, rows)]) + f"\n\n{note}")
        return
    table = Table(*columns, caption=note, caption_justify="left")
    above = None
    for row in rows:
        table.add_row("" if row[0] == above else row[0], *row[1:])
        above = row[0]
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)
