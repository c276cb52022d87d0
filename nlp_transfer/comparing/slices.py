"""Where one predictor is better or worse than another: by label, by domain and by text length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.comparing.scores import holm, mcnemar, over_seeds, within
from nlp_transfer.data.task import likeliest
from nlp_transfer.evaluation.intervals import Bootstrap, Interval, outcome

if TYPE_CHECKING:
    from nlp_transfer.data.corpus import Examples
    from nlp_transfer.data.task import Task

_LENGTH_GROUPS = 4
FEWEST = 10  # rows of a slice that is reported


@dataclass(frozen=True)
class Slice:
    """A group of rows with the difference of two predictors on it.

    Attributes:
        kind: label, domain or length.
        name: of the label or domain, or the range of lengths.
        rows: their number.
        gain: mean reduction of errors per row; with one label per text, the share of rows.
        adjusted: p-value of McNemar's test, after Holm's correction over all slices of the kind.
        outcome: better or worse if that is less than 1 - confidence and the interval lies on that side of zero, else no
            evidence.
    """

    kind: str
    name: str
    rows: int
    gain: Interval
    adjusted: float
    outcome: str


def slices(task: Task, examples: Examples, gains: np.ndarray, bootstrap: Bootstrap) -> list[Slice]:
    """Return the gains on every slice with enough rows.

    Args:
        task: of the rows.
        examples: the rows.
        gains: (seeds, rows), see `scores.TrialScores.gains`.
        bootstrap: for the intervals; its confidence is that of the outcomes, too.
    """
    reported: list[Slice] = []
    for kind, parts in _parts(task, examples).items():
        large = [(name, rows) for name, rows in parts if len(rows) >= FEWEST]
        tests = [mcnemar(gains[:, rows].mean(axis=0)) for _, rows in large]
        adjusted = holm([p for _, _, p in tests])
        for (name, rows), (wins, losses, _), p in zip(large, tests, adjusted, strict=True):
            gain = _gain(gains[:, rows], examples.weights[rows], bootstrap)
            gain = within(gain, -1.0, 1.0) if task.problem == "single_label" else gain
            result = outcome(gain, 1) if p < 1 - bootstrap.confidence else "no evidence"
            if result != ("better" if wins > losses else "worse"):  # possible if gains differ in size
                result = "no evidence"
            reported.append(Slice(kind, name, len(rows), gain, p, result))
    return reported


def _parts(task: Task, examples: Examples) -> dict[str, list[tuple[str, np.ndarray]]]:
    present = examples.weights > 0
    lengths = list(_by_length(examples.characters, present))
    parts = {"label": list(_by_label(task, examples.targets, present)), "length": lengths}
    if examples.domains is not None:
        domains = np.asarray(examples.domains)
        parts["domain"] = [(str(name), np.flatnonzero((domains == name) & present)) for name in np.unique(domains)]
    return {kind: each for kind, each in parts.items() if len(each) > 1}


def _by_label(task: Task, targets: np.ndarray, present: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    if task.problem == "regression":
        return
    for place, name in enumerate(task.labels):
        has_label = targets[:, place] >= 0.5 if task.problem == "multi_label" else likeliest(targets) == place
        yield name, np.flatnonzero(has_label & present)


def _by_length(lengths: np.ndarray, present: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    shares = np.linspace(0, 1, _LENGTH_GROUPS + 1)
    edges = np.unique(np.quantile(lengths[present], shares, method="closest_observation"))
    for place, (low, high) in enumerate(pairwise(edges)):
        first = low if place == 0 else low + 1
        yield f"{first:,} to {high:,} characters", np.flatnonzero((lengths >= first) & (lengths <= high) & present)


def _gain(gains: np.ndarray, weights: np.ndarray, bootstrap: Bootstrap) -> Interval:
    share = weights.astype(np.float64)
    parts = [((share * gains) @ counts) / (share @ counts) for counts in bootstrap.draws(len(share))]
    values = np.average(gains, axis=1, weights=share)
    drawn = np.concatenate(parts, axis=1) if parts else np.full((len(gains), 1), np.nan)
    return over_seeds(values.tolist(), drawn, confidence=bootstrap.confidence)
