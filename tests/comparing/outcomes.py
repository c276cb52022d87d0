"""Constructed outcomes of comparisons."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from nlp_transfer.comparing.outcome import ComparisonOutcome, GridCell, Transfer
from nlp_transfer.comparing.scores import PairedTest
from nlp_transfer.evaluation.intervals import Interval

SURE, UNSURE = Interval(0.2, 0.1, 0.3), Interval(0.2, -0.1, 0.5)


def cell(name: str, labels: str, seconds: float = 1.0) -> GridCell:
    figure = Interval(0.5, 0.4, 0.6)
    return GridCell(name, labels, f"with {labels} labels per class", 30, figure, [0.5, 0.5], 0.5, seconds, 1, 1, None)


def duel(one: str, other: str, difference: Interval, p: float, labels: str = "64") -> PairedTest:
    """Return a paired test whose test of rows has this p value."""
    told = "better" if difference.low > 0 else "no evidence"
    return PairedTest(one, other, labels, 2, difference, 0.01, 0.01, told, 10, 5, p, p)


def outcome(*duels: PairedTest, few: PairedTest | None = None, cells: tuple[GridCell, ...] = ()) -> ComparisonOutcome:
    """Return an outcome of probe, which wins, lora and the majority baseline."""
    usual = tuple(cell(name, labels) for labels in ("8", "64") for name in ("probe", "lora", "majority"))
    few = few or dataclasses.replace(duels[0], labels="8")
    transfers = [Transfer(f"with {each.labels} labels per class", each.labels, each, []) for each in (few, duels[0])]
    return ComparisonOutcome(
        Path("x"), "data", "accuracy", 100, 0.95, [0, 1], ["probe", "lora"], ["majority"],
        list(cells or usual), transfers, list(duels), [], {}, [], Path("x/winner.yaml"),
    )  # fmt: skip
