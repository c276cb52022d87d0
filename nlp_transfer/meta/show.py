"""What a meta-learning came to, on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nlp_transfer.evaluation.formatting import number

if TYPE_CHECKING:
    from rich.console import Console

    from nlp_transfer.evaluation.intervals import Interval
    from nlp_transfer.meta.measuring import Outcome


def render(outcome: Outcome, console: Console) -> None:
    """Show the table in 80 columns, and the verdict under it."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in ("shots", "encoder as it\nwas, prototypes", f"{outcome.method},\nprototypes"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("difference, over\nother episodes", "over other\nclasses"):
        table.add_column(name, justify="right", no_wrap=True)
    for gain in outcome.gains:
        cells = [_shown(gain.frozen), _shown(gain.learned)]
        cells += [_shown(gain.paired, signed=True), _shown(gain.over_classes, signed=True)]
        table.add_row(str(gain.shots), *cells)
    held_out = len(outcome.classes["test"])
    console.print(table)
    console.print(
        f"{outcome.ways}-way accuracy in {outcome.episodes:,} episodes of {held_out} classes held out", style="dim"
    )
    console.print(outcome.verdict, soft_wrap=True, style="bold")


def _shown(of: Interval, *, signed: bool = False) -> str:
    return f"{number(of.value, signed=signed)}\n[{number(of.low)}, {number(of.high)}]"
