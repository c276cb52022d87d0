"""The style of tables of figures on a terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

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
