"""Tables on standard output, for a terminal or as Markdown."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

WIDE = 220  # columns, where standard output is no terminal


def show(columns: Sequence[str], rows: Sequence[Sequence[str]], note: str, *, markdown: bool) -> None:
    """Print a table; on a terminal a first cell that repeats the one above is left empty."""
    if not rows:
        return
    if markdown:
        lines = [columns, ["---"] * len(columns), *rows]
        print("\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{note}")
        return
    table = Table(*columns, caption=note, caption_justify="left")
    above = None
    for row in rows:
        table.add_row("" if row[0] == above else row[0], *row[1:])
        above = row[0]
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)
