"""A ranking of encoders on a terminal: the best first, with how sure that is and what each costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nlp_transfer.evaluation.tables import simple_table

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
        of, cost = each.candidate, each.candidate.cost
        low, high = each.ranks
        table.add_row(
            f"{place}" if low == high else f"{place} ({low}–{high})",
            of.name,
            *("–" if score is None else _with_bounds(score) for score in (each.explained, each.accuracy, of.logme)),
            f"{of.best.number} of {of.depth}" if of.depth else "last",
        )
        costs.add_row(
            f"{of.name}\n{of.encoder}",
            f"{cost.parameters / 1e6:,.1f} M",
            f"{cost.megabytes:,.0f} MB",
            f"{cost.milliseconds:.2g} ms",
            f"{cost.gigaflops:.3g} GFLOP",
        )
    console.print(table)
    console.print(costs)
    console.print(verdict(standings), soft_wrap=True, style="bold")


def _with_bounds(of: Interval) -> str:
    return f"{of.value:.3f}\n[{of.low:.3f}, {of.high:.3f}]"


def verdict(standings: list[Standing]) -> str:
    """Return in words which encoder to start from, and whether another would do as well."""
    best = standings[0]
    name = best.candidate.name
    if best.explained.low <= 0:
        return f"no encoder tells more of the labels than their shares do for certain; {name} comes first by chance"
    rivals = [each.candidate.name for each in standings[1:] if each.ranks[0] == 1]
    if not rivals:
        return f"start from {name}" + (f": it is first in {best.first:.0%} of the resamples" if standings[1:] else "")
    as_good = [each.candidate for each in standings if each.ranks[0] == 1 or each is best]
    cheapest = min(as_good, key=lambda each: each.cost.gigaflops).name
    cheap = f"; {cheapest} costs least of them" if cheapest != name else ""
    return f"start from {name}; {', '.join(rivals)} may be as good{cheap}"
