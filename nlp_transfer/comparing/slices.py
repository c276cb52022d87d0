"""Where one is better than another and where it is worse: by class, by domain, with short texts and with long ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.comparing.contest import holm, mcnemar, over_seeds, within
from nlp_transfer.data.task import likeliest
from nlp_transfer.evaluation.intervals import Interval, draws, outcome

if TYPE_CHECKING:
    from nlp_transfer.data.corpus import Examples
    from nlp_transfer.data.task import Task

_LENGTHS = 4  # parts of equal size
FEWEST = 10  # rows of which anything can be said


@dataclass(frozen=True)
class Slice:
    """Some of the rows.

    Attributes:
        kind: label, domain or length.
        name: of the label or domain, or how many characters.
        rows: how many.
        gain: errors that the one has less than the other, a row; with one label a text the share of rows.
        adjusted: probability of McNemar's test, after Holm's correction over all slices of the kind.
        outcome: better or worse where that is less than 1 - confidence and the interval lies on that side of zero, else
            no evidence.
    """

    kind: str
    name: str
    rows: int
    gain: Interval
    adjusted: float
    outcome: str


def slices(
    task: Task, examples: Examples, gains: np.ndarray, *, resamples: int, confidence: float, seed: int
) -> list[Slice]:
    """Return what of the gains falls into every slice that has rows enough.

    Args:
        task: of the rows.
        examples: the rows.
        gains: (seeds, rows), see `contest.Contest.gains`.
        resamples: of the bootstrap behind the intervals.
        confidence: of intervals and outcomes.
        seed: of the resamples.
    """
    found: list[Slice] = []
    for kind, parts in _parts(task, examples).items():
        kept = [(name, rows) for name, rows in parts if len(rows) >= FEWEST]
        tests = [mcnemar(gains[:, rows].mean(axis=0)) for _, rows in kept]
        adjusted = holm([p for _, _, p in tests])
        for (name, rows), (wins, losses, _), p in zip(kept, tests, adjusted, strict=True):
            gain = _gain(gains[:, rows], examples.weights[rows], resamples, confidence, seed)
            gain = within(gain, -1.0, 1.0) if task.problem == "single_label" else gain
            told = outcome(gain, 1) if p < 1 - confidence else "no evidence"
            agrees = told == ("better" if wins > losses else "worse")  # where gains differ in size they may not
            found.append(Slice(kind, name, len(rows), gain, p, told if agrees else "no evidence"))
    return found


def _parts(task: Task, examples: Examples) -> dict[str, list[tuple[str, np.ndarray]]]:
    known = examples.weights > 0
    lengths = list(_by_length(examples.characters, known))
    parts = {"label": list(_by_label(task, examples.targets, known)), "length": lengths}
    if examples.domains is not None:
        domains = np.asarray(examples.domains)
        parts["domain"] = [(str(name), np.flatnonzero((domains == name) & known)) for name in np.unique(domains)]
    return {kind: each for kind, each in parts.items() if len(each) > 1}


def _by_label(task: Task, targets: np.ndarray, known: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    if task.problem == "regression":
        return
    for place, name in enumerate(task.labels):
        having = targets[:, place] >= 0.5 if task.problem == "multi_label" else likeliest(targets) == place
        yield name, np.flatnonzero(having & known)


def _by_length(lengths: np.ndarray, known: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    edges = np.unique(np.quantile(lengths[known], np.linspace(0, 1, _LENGTHS + 1), method="closest_observation"))
    for place, (low, high) in enumerate(pairwise(edges)):
        first = low if place == 0 else low + 1
        yield f"{first:,} to {high:,} characters", np.flatnonzero((lengths >= first) & (lengths <= high) & known)


def _gain(gains: np.ndarray, weights: np.ndarray, resamples: int, confidence: float, seed: int) -> Interval:
    share = weights.astype(np.float64)
    parts = [
        ((share * gains) @ counts) / (share @ counts) for counts in draws(len(share), resamples=resamples, seed=seed)
    ]
    values = np.average(gains, axis=1, weights=share)
    drawn = np.concatenate(parts, axis=1) if parts else np.full((len(gains), 1), np.nan)
    return over_seeds(values.tolist(), drawn, confidence=confidence)
