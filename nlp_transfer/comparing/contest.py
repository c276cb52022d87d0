"""How good each is and whether that is by chance: means over seeds, intervals over rows and seeds, tests with Holm."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.comparing.grid import Trial
from nlp_transfer.evaluation.decisions import decide
from nlp_transfer.evaluation.intervals import Interval, interval, outcome, replicates
from nlp_transfer.evaluation.metrics import compute
from nlp_transfer.evaluation.names import range_of, sign_of

if TYPE_CHECKING:
    from nlp_transfer.comparing.trial import Answers
    from nlp_transfer.data.corpus import Examples
    from nlp_transfer.data.task import Task

_HALVINGS = 20  # of the reach in which a probability lies: to a millionth


@dataclass(frozen=True)
class Duel:
    """Two of them on the same rows.

    Attributes:
        one, other: their names.
        labels: how many labels they had.
        seeds: how many trainings of each.
        difference: the metric of the one minus that of the other, mean over the seeds that both have.
        p: of the difference, see `probability`.
        adjusted: the same after Holm's correction for all duels of its family.
        outcome: better or worse where `adjusted` is less than 1 - confidence, else no evidence.
        wins, losses: rows on which the one is right in more seeds than the other, and the reverse.
        rows_p: of McNemar's test, which is about these rows and not about the metric.
        rows_adjusted: the same after Holm's correction.
    """

    one: str
    other: str
    labels: str
    seeds: int
    difference: Interval
    p: float
    adjusted: float
    outcome: str
    wins: int
    losses: int
    rows_p: float
    rows_adjusted: float

    @property
    def is_apart(self) -> bool:
        """Whether the interval, by itself, does not hold zero."""
        return self.difference.low > 0 or self.difference.high < 0


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
        return sign_of(self.metric)

    def seeds(self, *names: str, labels: str) -> list[int]:
        """Return the seeds with which all of these have answered."""
        found = [{each.seed for each in self.answers if (each.name, each.labels) == (name, labels)} for name in names]
        return sorted(set.intersection(*found))

    def values(self, name: str, labels: str) -> list[float]:
        """Return the metric of every seed."""
        return [self._value(Trial(name, labels, seed)) for seed in self.seeds(name, labels=labels)]

    def figure(self, name: str, labels: str) -> Interval:
        """Return the metric, mean over the seeds, see `over_seeds`; nan without answers."""
        trials = [Trial(name, labels, seed) for seed in self.seeds(name, labels=labels)]
        if not trials:
            return Interval(np.nan, np.nan, np.nan)
        drawn = np.stack([self._replicates(trial) for trial in trials])
        found = over_seeds([self._value(trial) for trial in trials], drawn, confidence=self.confidence)
        return within(found, *range_of(self.metric))

    def duels(self, pairs: Sequence[tuple[str, str, str]]) -> list[Duel]:
        """Return a family of duels, their tests corrected together (Holm 1979); pairs without a common seed are not.

        What is called better or worse is so by the test of the metric that decides. Beside it stands McNemar's (1947),
        exact: of the rows on which the two differ, each is right on half if they are as good. With several seeds a row
        counts for who is right in more of them; where an answer is a number or a set, for who is nearer. That test is
        about these trainings: other seeds are the business of the interval.

        Args:
            pairs: the one, the other, and how many labels they had.
        """
        found = [self._duel(*pair) for pair in pairs if self.seeds(*pair[:2], labels=pair[2])]
        adjusted, of_rows = (holm([getattr(duel, name) for duel in found]) for name in ("p", "rows_p"))
        return [
            dataclasses.replace(duel, adjusted=p, rows_adjusted=rows_p, outcome=self._outcome(duel.difference, p))
            for duel, p, rows_p in zip(found, adjusted, of_rows, strict=True)
        ]

    def _outcome(self, difference: Interval, p: float) -> str:
        return outcome(difference, self.sign) if p < 1 - self.confidence else "no evidence"

    def gains(self, one: str, other: str, labels: str) -> np.ndarray:
        """Return by how much the one errs less than the other, (seeds, rows) in the order of the examples."""
        gains = np.empty((len(self.seeds(one, other, labels=labels)), len(self._order)))
        gains[:, self._order] = self._gains(one, other, labels)
        return gains

    def _duel(self, one: str, other: str, labels: str) -> Duel:
        pairs = [
            (Trial(one, labels, seed), Trial(other, labels, seed)) for seed in self.seeds(one, other, labels=labels)
        ]
        values = [self._value(ours) - self._value(theirs) for ours, theirs in pairs]
        drawn = np.stack([self._replicates(ours) - self._replicates(theirs) for ours, theirs in pairs])
        least, most = range_of(self.metric)
        difference = within(over_seeds(values, drawn, confidence=self.confidence), least - most, most - least)
        p = probability(values, drawn)
        wins, losses, rows_p = mcnemar(self._gains(one, other, labels).mean(axis=0)[self._weights > 0])
        return Duel(
            one=one,
            other=other,
            labels=labels,
            seeds=len(pairs),
            difference=difference,
            p=p,
            adjusted=p,
            outcome=self._outcome(difference, p),
            wins=wins,
            losses=losses,
            rows_p=rows_p,
            rows_adjusted=rows_p,
        )

    def _gains(self, one: str, other: str, labels: str) -> np.ndarray:
        seeds = self.seeds(one, other, labels=labels)
        return np.stack(
            [self._errors(Trial(other, labels, seed)) - self._errors(Trial(one, labels, seed)) for seed in seeds]
        )

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


def over_seeds(values: Sequence[float], drawn: np.ndarray, *, confidence: float) -> Interval:
    r"""Return the mean over seeds with an interval over other rows of the kind and other seeds.

    The two kinds of chance are independent, so their reaches add up as squares: down and up to the percentiles of the
    mean over resampled rows, and :math:`t_{n-1} \, s / \sqrt{n}` for n seeds whose values deviate by s. (Resampling
    three seeds would find them between the least and the greatest of the three, which is far too sure.) One seed says
    nothing of others: then the interval is over rows alone.

    Args:
        values: of each seed.
        drawn: (seeds, resamples), the same on resampled rows.
        confidence: of the interval.
    """
    from scipy.stats import t

    seeds, value = len(values), float(np.mean(values))
    rows = interval(value, drawn.mean(axis=0), confidence=confidence)
    if seeds == 1:
        return rows
    reach = float(t.ppf((1 + confidence) / 2, seeds - 1) * np.std(values, ddof=1) / np.sqrt(seeds))
    return Interval(
        value, value - float(np.hypot(value - rows.low, reach)), value + float(np.hypot(rows.high - value, reach))
    )


def probability(values: Sequence[float], drawn: np.ndarray) -> float:
    """Return the two-sided probability of a difference as large if there is none: by the interval of `over_seeds`.

    It is less than 0.05 where the interval of 95 % does not hold zero, and so on for every confidence: the least for
    which the interval reaches zero. So many resamples can show no less than two of one more of them.

    Args:
        values: of each seed, the one's less the other's.
        drawn: (seeds, resamples), the same on resampled rows.
    """
    known = int((~np.isnan(drawn).any(axis=0)).sum())
    least, most = min(1.0, 2 / (known + 1)), 1.0

    def excludes_zero(p: float) -> bool:
        found = over_seeds(values, drawn, confidence=1 - p)
        return found.low > 0 or found.high < 0

    if excludes_zero(least):
        return least
    for _ in range(_HALVINGS):
        middle = (least + most) / 2
        least, most = (least, middle) if excludes_zero(middle) else (middle, most)
    return most


def within(found: Interval, least: float, most: float) -> Interval:
    """Return the interval without what its value cannot be, which the reach over few seeds does not know."""
    return dataclasses.replace(found, low=max(found.low, least), high=min(found.high, most))


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
