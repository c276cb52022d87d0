"""Show the outcome of a meta-learning at the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nlp_transfer.evaluation.formatting import format_interval
from nlp_transfer.evaluation.tables import simple_table

if TYPE_CHECKING:
    from rich.console import Console

    from nlp_transfer.meta.measuring import MetaOutcome


def render(outcome: MetaOutcome, console: Console) -> None:
    """Show a table in 80 columns, and the verdict below it."""
    table = simple_table()
    figures = ("original encoder,\nprototypes", f"{outcome.method},\nprototypes")
    for name in ("shots", *figures, "difference, over\nother episodes", "over other\nclasses"):
        table.add_column(name, justify="right", no_wrap=True)
    for gain in outcome.gains:
        cells = [format_interval(each, between="\n") for each in (gain.frozen, gain.learned)]
        cells += [format_interval(each, signed=True, between="\n") for each in (gain.paired, gain.over_classes)]
        table.add_row(str(gain.shots), *cells)
    held_out = len(outcome.classes["test"])
    console.print(table)
    console.print(
        f"{outcome.ways}-way accuracy in {outcome.episodes:,} episodes of {held_out} held-out classes", style="dim"
    )
    console.print(outcome.verdict, soft_wrap=True, style="bold")
