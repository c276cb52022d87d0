"""Several tasks that learned together, on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nlp_transfer.evaluation.formatting import number

if TYPE_CHECKING:
    from rich.console import Console

    from nlp_transfer.evaluation.intervals import Interval
    from nlp_transfer.multitask.outcome import Outcome


def render(outcome: Outcome, console: Console) -> None:
    """Show the table, in 80 columns."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("task", overflow="fold")
    for name in ("rows", "metric", "together"):
        table.add_column(name, justify="right", no_wrap=True)
    for task in outcome.tasks:
        table.add_row(task.name, f"{task.rows:,}", task.metric, _with_bounds(task.together))
    console.print(table)
    for task in outcome.tasks:
        console.print(f"{task.name}: {task.folder}", soft_wrap=True)


def _with_bounds(figure: Interval) -> str:
    return f"{number(figure.value)}\n[{number(figure.low)}, {number(figure.high)}]"
