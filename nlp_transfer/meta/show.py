"""What a meta-learning came to, on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nlp_transfer.evaluation.formatting import format_interval
from nlp_transfer.evaluation.tables import simple_table

if TYPE_CHECKING:
    from rich.console import Console

    from nlp_transfer.meta.measuring import Outcome


def render(outcome: Outcome, console: Console) -> None:
    """Show the table in 80 columns, and the verdict under it."""
    table = simple_table()
    figures = ("encoder as it\nwas, prototypes", f"{outcome.method},\nprototypes")
    for name in ("shots", *figures, "difference, over\nother episodes", "over other\nclasses"):
        table.add_column(name, justify="right", no_wrap=True)
    for gain in outcome.gains:
        cells = [format_interval(each, between="\n") for each in (gain.frozen, gain.learned)]
        cells += [format_interval(each, signed=True, between="\n") for each in (gain.paired, gain.over_classes)]
        table.add_row(str(gain.shots), *cells)
    held_out = len(outcome.classes["test"])
    console.print(table)
    console.print(
        f"{outcome.ways}-way accuracy in {outcome.episodes:,} episodes of {held_out} classes held out", style="dim"
    )
    console.print(outcome.verdict, soft_wrap=True, style="bold")
