"""A comparison on a terminal: learning curves as a table, costs, and the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nlp_transfer.evaluation.formatting import format_interval, number, title_of
from nlp_transfer.evaluation.intervals import Interval
from nlp_transfer.evaluation.tables import COLOURS, print_table, simple_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from nlp_transfer.comparing.outcome import ComparisonOutcome
    from nlp_transfer.comparing.scores import PairedTest


def render(outcome: ComparisonOutcome, console: Console) -> None:
    """Print the comparison; its tables fit 80 columns."""
    from rich.text import Text

    console.print(
        f"{outcome.metric} by number of labels; {outcome.rows:,} test rows, "
        f"{_seeds(outcome)}, {100 * outcome.confidence:g}% intervals",
        style="bold",
    )
    print_table(_curves(outcome), console)
    console.print(f"cost, {outcome.most.said}; intervals without correction for multiple comparisons", style="bold")
    print_table(_costs(outcome), console)
    for place, sentence in enumerate(outcome.verdict):
        console.print(Text(sentence, style=f"bold {COLOURS[outcome.most.duel.outcome]}" if place == 0 else ""))


def _seeds(outcome: ComparisonOutcome) -> str:
    return "one seed" if len(outcome.seeds) == 1 else f"mean of {len(outcome.seeds)} seeds"


def _curves(outcome: ComparisonOutcome) -> Table:
    labels = dict.fromkeys((cell.labels, cell.said) for cell in outcome.cells)
    table = simple_table()
    table.add_column("", overflow="fold")
    for _, description in labels:
        table.add_column(description.removeprefix("with ").removesuffix(" per class"), justify="right", no_wrap=True)
    for name in dict.fromkeys(cell.name for cell in outcome.cells):
        cells = [outcome.cell(name, each) for each, _ in labels]
        figures = ["" if cell is None else _two_lines(cell.figure) for cell in cells]
        table.add_row(title_of(name), *figures, style="dim" if name in outcome.floors else "")
    return table


def _two_lines(figure: Interval) -> str:
    return f"{number(figure.value)}\n{number(figure.low)}–{number(figure.high)}"


def _costs(outcome: ComparisonOutcome) -> Table:
    table = simple_table()
    table.add_column("", overflow="fold")
    for name in (outcome.metric, "against the winner", "seconds", "learning", "MB"):
        table.add_column(name, justify="right", no_wrap=True)
    tests = {frozenset((test.one, test.other)): test for test in outcome.duels}
    for cell in (each for each in outcome.cells if each.labels == outcome.most.labels):
        test = tests.get(frozenset((cell.name, outcome.winner)))
        table.add_row(
            title_of(cell.name),
            number(cell.figure.value),
            "" if test is None else _difference(test, cell.name),
            f"{cell.seconds:,.1f}",
            f"{cell.learning:,}" if cell.learning else "",
            f"{cell.megabytes:,.0f}" if cell.megabytes else "",
            style="dim" if cell.name in outcome.floors else "",
        )
    return table


def _difference(test: PairedTest, name: str) -> str:
    """Return the difference of the named predictor from the other one, with the interval below it."""
    difference = test.difference
    if test.one != name:
        difference = Interval(-difference.value, -difference.high, -difference.low)
    return format_interval(difference, signed=True, between="\n")
