"""The ranking of encoders on a terminal: best first, with uncertainty and costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nlp_transfer.evaluation.tables import print_table, simple_table

if TYPE_CHECKING:
    from rich.console import Console

    from nlp_transfer.evaluation.intervals import Interval
    from nlp_transfer.ranking.standing import Standing


def render(standings: list[Standing], console: Console) -> None:
    """Show the ranking, in 80 columns."""
    table = simple_table()
    table.add_column("place", no_wrap=True)
    table.add_column("encoder", overflow="fold")
    for name in ("explained", "accuracy", "LogME", "best\nlayer"):
        table.add_column(name, justify="right", no_wrap=True)
    costs = simple_table()
    costs.add_column("encoder", overflow="fold")
    for name in ("parameters", "weights", "a text", "operations"):
        costs.add_column(name, justify="right", no_wrap=True)
    for each in standings:
        place = 1 + sum(other.explained.value > each.explained.value for other in standings)
        candidate, cost = each.candidate, each.candidate.cost
        low, high = each.ranks
        scores = (each.explained, each.accuracy, candidate.logme)
        table.add_row(
            f"{place}" if low == high else f"{place} ({low}–{high})",
            candidate.name,
            *("–" if score is None else _with_bounds(score) for score in scores),
            f"{candidate.best.number} of {candidate.depth}" if candidate.depth else "last",
        )
        costs.add_row(
            f"{candidate.name}\n{candidate.encoder}",
            f"{cost.parameters / 1e6:,.1f} M",
            f"{cost.megabytes:,.0f} MB",
            f"{cost.milliseconds:.2g} ms",
            f"{cost.gigaflops:.3g} GFLOP",
        )
    print_table(table, console)
    print_table(costs, console)
    console.print(verdict(standings), soft_wrap=True, style="bold")


def _with_bounds(score: Interval) -> str:
    return f"{score.value:.3f}\n[{score.low:.3f}, {score.high:.3f}]"


def verdict(standings: list[Standing]) -> str:
    """Return a sentence on which encoder to start from, and which others may be as good."""
    best = standings[0]
    name = best.candidate.name
    if best.explained.low <= 0:
        return f"no encoder certainly predicts labels better than their frequencies do; {name} is first by chance"
    rivals = [each.candidate.name for each in standings[1:] if each.ranks[0] == 1]
    if not rivals:
        return f"start from {name}" + (f": it is first in {best.first:.0%} of the resamples" if standings[1:] else "")
    as_good = [each.candidate for each in standings if each.ranks[0] == 1 or each is best]
    cheapest = min(as_good, key=lambda each: each.cost.gigaflops).name
    hint = f"; {cheapest} costs least of them" if cheapest != name else ""
    return f"start from {name}; {', '.join(rivals)} may be as good{hint}"
