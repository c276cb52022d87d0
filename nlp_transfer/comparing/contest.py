"""How good each is and whether that is by chance: means over seeds, intervals over rows and seeds, tests with Holm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.comparing.grid import Trial
from nlp_transfer.evaluation.decisions import decide
from nlp_transfer.evaluation.intervals import Interval, interval, replicates
from nlp_transfer.evaluation.metrics import compute
from nlp_transfer.evaluation.names import HIGHER_IS_BETTER

if TYPE_CHECKING:
    from nlp_transfer.comparing.trial import Answers
    from nlp_transfer.data.corpus import Examples
    from nlp_transfer.data.task import Task


@dataclass(frozen=True)
class Duel:
    """Two of them on the same rows.

    Attributes:
        one, other: their names.
        labels: how many labels they had.
        difference: the metric of the one minus that of the other, mean over the seeds that both have.
        wins, losses: rows on which the one is right in more seeds than the other, and the reverse.
        p: of McNemar's test.
        adjusted: the same after Holm's correction for all duels of its family.
        outcome: better or worse where the whole interval lies on one side of zero, else no evidence.
    """

    one: str
    other: str
    labels: str
    difference: Interval
    wins: int
    losses: int
    p: float
    adjusted: float
    outcome: str


@dataclass
class Contest:
    """Everybody's answers to the same rows.

    Attributes:
        examples: the rows, with their targets and weights.
        metric: that decides.
        answers: by trial; who has no answers there takes no part.
        resamples: of the bootstrap.
        confidence: of the intervals.
        seed: of the resamples.
    """

    examples: Examples
    metric: str
    answers: Mapping[Trial, Answers]
    resamples: int
    confidence: float
    seed: int
    _drawn: dict[Trial, np.ndarray] = field(default_factory=dict, init=False)
    _values: dict[Trial, float] = field(default_factory=dict, init=False)
    _wrong: dict[Trial, np.ndarray] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        # By id, as in a run: neither the order of the file nor who gathered the rows changes a figure.
        self._order = np.argsort(np.asarray(self.examples.ids), kind="stable")
        self._targets = self.examples.targets[self._order]
        self._weights = self.examples.weights[self._order].astype(np.float64)

    @property
    def sign(self) -> int:
        """1 where more of the metric is better, else -1."""
        return 1 if HIGHER_IS_BETTER[self.metric] else -1

    def seeds(self, *names: str, labels: str) -> list[int]:
        """Return the seeds with which all of these have answered."""
        found = [{each.seed for each in self.answers if (each.name, each.labels) == (name, labels)} for name in names]
        return sorted(set.intersection(*found))

    def values(self, name: str, labels: str) -> list[float]:
        """Return the metric of every seed."""
        return [self._value(Trial(name, labels, seed)) for seed in self.seeds(name, labels=labels)]

    def value(self, name: str, labels: str) -> float:
        """Return the metric, mean over the seeds."""
        return float(np.mean(self.values(name, labels)))

    def known(self, figure: Interval) -> float:
        """Return a figure as one that can be compared: what is undefined is worst."""
        return -self.sign * np.inf if np.isnan(figure.value) else figure.value

    def figure(self, name: str, labels: str) -> Interval:
        """Return the metric with its interval over other rows of the kind and other seeds; nan without answers."""
        seeds = self.seeds(name, labels=labels)
        if not seeds:
            return Interval(np.nan, np.nan, np.nan)
        drawn = self._over_seeds([self._replicates(Trial(name, labels, seed)) for seed in seeds])
        return interval(self.value(name, labels), drawn, confidence=self.confidence)

    def duels(self, pairs: Sequence[tuple[str, str]], labels: str) -> list[Duel]:
        """Return a family of duels, their tests corrected together (Holm 1979); pairs without a common seed are not.

        McNemar's test (1947), exact: of the rows on which the two differ, each is right on half if they are as good.
        With several seeds a row counts for who is right in more of them; where an answer is a number or a set, for who
        is nearer.
        """
        found = [self._duel(one, other, labels) for one, other in pairs if self.seeds(one, other, labels=labels)]
        adjusted = holm([duel.p for duel in found])
        return [Duel(**{**vars(duel), "adjusted": p}) for duel, p in zip(found, adjusted, strict=True)]

    def gains(self, one: str, other: str, labels: str) -> np.ndarray:
        """Return by how much the one errs less than the other on every row, mean over seeds; in the examples' order."""
        gains = np.empty(len(self._order))
        gains[self._order] = self._gains(one, other, labels)
        return gains

    def _duel(self, one: str, other: str, labels: str) -> Duel:
        seeds = self.seeds(one, other, labels=labels)
        apart = [
            self._replicates(Trial(one, labels, seed)) - self._replicates(Trial(other, labels, seed)) for seed in seeds
        ]
        value = float(
            np.mean([self._value(Trial(one, labels, seed)) - self._value(Trial(other, labels, seed)) for seed in seeds])
        )
        difference = interval(value, self._over_seeds(apart), confidence=self.confidence)
        wins, losses, p = mcnemar(self._gains(one, other, labels)[self._weights > 0])
        return Duel(one, other, labels, difference, wins, losses, p, p, outcome(difference, self.sign))

    def _gains(self, one: str, other: str, labels: str) -> np.ndarray:
        seeds = self.seeds(one, other, labels=labels)
        ours, theirs = ([self._errors(Trial(name, labels, seed)) for seed in seeds] for name in (one, other))
        return np.mean(theirs, axis=0) - np.mean(ours, axis=0)

    def _value(self, trial: Trial) -> float:
        if trial not in self._values:
            of = self.answers[trial]
            values = compute(of.task, of.logits[self._order], self._targets, self._weights)
            self._values[trial] = values[self.metric]
        return self._values[trial]

    def _replicates(self, trial: Trial) -> np.ndarray:
        """Return the metric on every resample of the rows, which are the same for all."""
        if trial not in self._drawn:
            of = self.answers[trial]
            (drawn,) = replicates(
                [of.task],
                [of.logits[self._order]],
                self._targets,
                self._weights,
                metrics=[self.metric],
                resamples=self.resamples,
                seed=self.seed,
            )
            self._drawn[trial] = drawn[self.metric]
        return self._drawn[trial]

    def _errors(self, trial: Trial) -> np.ndarray:
        if trial not in self._wrong:
            of = self.answers[trial]
            self._wrong[trial] = errors(of.task, of.logits[self._order], self._targets)
        return self._wrong[trial]

    def _over_seeds(self, drawn: Sequence[np.ndarray]) -> np.ndarray:
        """Return the mean over seeds that are resampled, too, with every resample of the rows."""
        values = np.stack(drawn)
        picks = np.random.default_rng([self.seed, len(values)]).integers(len(values), size=values.shape[::-1])
        return np.take_along_axis(values, picks.T, axis=0).mean(axis=0)


def errors(task: Task, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return how wrong the decision on every row is, (rows,).

    single_label: 0 or 1, of soft labels the share of the others; ordinal: ranks apart; multi_label: labels that are
    wrong; regression: the distance.
    """
    decided = decide(task, logits)
    if task.problem == "regression":
        return np.abs(decided - targets)
    if task.problem == "multi_label":
        return (decided != (targets >= 0.5)).sum(axis=1).astype(np.float64)
    ranks = np.arange(len(task.labels))
    apart = np.abs(ranks - decided[:, None]) if task.problem == "ordinal" else (ranks != decided[:, None])
    if targets.ndim == 1:
        return apart[np.arange(len(targets)), targets].astype(np.float64)
    return (targets * apart).sum(axis=1)


def mcnemar(gains: np.ndarray) -> tuple[int, int, float]:
    """Return rows won, rows lost, and the exact two-sided probability of so uneven a split by chance."""
    from scipy.stats import binomtest

    wins, losses = int((gains > 0).sum()), int((gains < 0).sum())
    return wins, losses, float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def holm(probabilities: Sequence[float]) -> list[float]:
    """Return each probability as Holm (1979) corrects it for there being so many of them."""
    adjusted, least = [1.0] * len(probabilities), 0.0
    for place, number in enumerate(np.argsort(probabilities, kind="stable")):
        least = max(least, min(1.0, (len(probabilities) - place) * probabilities[number]))
        adjusted[number] = least
    return adjusted


def outcome(difference: Interval, sign: int) -> str:
    """Return better, worse or no evidence."""
    low, high = sorted((sign * difference.low, sign * difference.high))
    return "better" if low > 0 else "worse" if high < 0 else "no evidence"
