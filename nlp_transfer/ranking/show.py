"""A ranking of encoders on a terminal: the best first, with how sure that is and what each costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from nlp_transfer.ranking.standing import Standing


def render(standings: list[Standing], console: Console) -> None:
    """Show the ranking."""
    from rich.table import Table

    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    for name in ("place", "encoder", "what it is"):
        table.add_column(name, overflow="fold")
    for name in ("explained", "accuracy", "best layer", "LogME", "parameters", "ms a text"):
        table.add_column(name, justify="right")
    for each in standings:
        place = 1 + sum(other.candidate.best.explained > each.candidate.best.explained for other in standings)
        best, cost = each.candidate.best, each.candidate.cost
        low, high = each.ranks
        told, (least, most) = best.explained, each.explained
        table.add_row(
            f"{place}" if low == high else f"{place} ({low}–{high})",
            each.candidate.name,
            each.candidate.encoder,
            f"{told:.3f} [{least:.3f}, {most:.3f}]",
            "" if best.accuracy is None else f"{best.accuracy:.3f}",
            f"{best.number} of {len(each.candidate.layers) - 1}" if len(each.candidate.layers) > 1 else "last",
            f"{best.logme:.3f}",
            f"{cost.parameters / 1e6:,.1f} M",
            f"{cost.milliseconds:.2f}",
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
    cheapest = min(
        (each for each in standings if each.ranks[0] == 1), key=lambda each: each.candidate.cost.gigaflops
    ).candidate.name
    cheap = f"; {cheapest} costs least of them" if cheapest != name else ""
    return f"start from {name}; {', '.join(rivals)} may be as good{cheap}"
