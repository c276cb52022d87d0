"""The outcome of a multitask training on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nlp_transfer.evaluation.formatting import format_interval, number
from nlp_transfer.evaluation.tables import simple_table
from nlp_transfer.multitask.outcome import TOGETHER

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from nlp_transfer.multitask.outcome import MultitaskGain, MultitaskOutcome


_COLOURS = {"better": "green", "no evidence": "", "worse": "red"}


def render(outcome: MultitaskOutcome, console: Console) -> None:
    """Print each task's score, its gain over training alone, and the gains in pairs, if measured; fits 80 columns."""
    from rich.text import Text

    table = _table("task", "rows", "metric", *(["alone"] if outcome.gains else []), "together")
    if outcome.gains:
        table.add_column("difference", justify="right", no_wrap=True)
    for task in outcome.tasks:
        cells = [task.name, f"{task.rows:,}", task.metric]
        gain = outcome.gain(task.name, TOGETHER)
        if gain is None:
            table.add_row(*cells, format_interval(task.together, between="\n"))
        else:
            alone = number(task.together.value - gain.difference.value)
            table.add_row(*cells, alone, number(task.together.value), Text(gain.words, _COLOURS[gain.outcome]))
    console.print(table)
    if matrix := outcome.matrix:
        console.print("gain of each task (column) from training with another one (row)", style="bold")
        names = [task.name for task in outcome.tasks]
        gains = _table("with", *names)
        for teacher in names:
            row = [matrix[teacher].get(task) for task in names]
            gains.add_row(teacher, *(_gain(each) for each in row))
        console.print(gains)
    for sentence in outcome.verdict:
        console.print(sentence, soft_wrap=True)
    console.print("\nThe models:", style="bold")
    for task in outcome.tasks:
        console.print(f"  {task.folder / 'model'}", soft_wrap=True)


def _gain(gain: MultitaskGain | None) -> Text:
    from rich.text import Text

    return Text("") if gain is None else Text(number(gain.difference.value, signed=True), _COLOURS[gain.outcome])


def _table(*columns: str) -> Table:
    table = simple_table()
    table.add_column(columns[0], overflow="fold")
    for name in columns[1:]:
        table.add_column(name, justify="right", overflow="fold")
    return table
