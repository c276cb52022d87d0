"""A ranking of encoders on a terminal: the best first, with how sure that is and what each costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from nlp_transfer.ranking.standing import Standing


def render(standings: list[Standing], console: Console) -> None:
    """Show the ranking, in 80 columns."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("place", no_wrap=True)
    table.add_column("encoder", overflow="fold")
    for name in ("explained", "accuracy\nLogME", "best\nlayer", "weights", "a text"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in standings:
        place = 1 + sum(other.told > each.told for other in standings)
        best, cost = each.candidate.best, each.candidate.cost
        low, high = each.ranks
        least, most = each.explained
        table.add_row(
            f"{place}" if low == high else f"{place} ({low}–{high})",
            f"{each.candidate.name}\n{each.candidate.encoder}",
            f"{each.told:.3f}\n[{least:.3f}, {most:.3f}]",
            f"{'–' if best.accuracy is None else f'{best.accuracy:.3f}'}\n{best.logme:.3f}",
            f"{best.number} of {each.candidate.depth}" if each.candidate.depth else "last",
            f"{cost.parameters / 1e6:,.1f} M\n{cost.megabytes:,.0f} MB",
            f"{cost.milliseconds:.2f} ms\n{cost.gigaflops:.3g} GFLOP",
        )
    console.print(table)
    console.print(verdict(standings), soft_wrap=True, style="bold")


def verdict(standings: list[Standing]) -> str:
    """Return in words which encoder to start from, and whether another would do as well."""
    best = standings[0]
    name = best.candidate.name
    if best.explained[0] <= 0:
        return f"no encoder tells more of the labels than their shares do for certain; {name} comes first by chance"
    rivals = [each.candidate.name for each in standings[1:] if each.ranks[0] == 1]
    if not rivals:
        return f"start from {name}" + (f": it is first in {best.first:.0%} of the resamples" if standings[1:] else "")
    as_good = [each.candidate for each in standings if each.ranks[0] == 1 or each is best]
    cheapest = min(as_good, key=lambda each: each.cost.gigaflops).name
    cheap = f"; {cheapest} costs least of them" if cheapest != name else ""
    return f"start from {name}; {', '.join(rivals)} may be as good{cheap}"
