"""Scores of all trials: means over seeds, intervals over rows and seeds, and paired tests with Holm's correction."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.comparing.grid import Trial
from nlp_transfer.evaluation.decisions import decide
from nlp_transfer.evaluation.intervals import Bootstrap, Interval, interval, outcome
from nlp_transfer.evaluation.metrics import compute
from nlp_transfer.evaluation.names import range_of, sign_of

if TYPE_CHECKING:
    from nlp_transfer.comparing.trial import TrialOutputs
    from nlp_transfer.data.corpus import Examples
    from nlp_transfer.data.task import Task

_BISECTIONS = 20  # give a p-value to a millionth


@dataclass(frozen=True)
class PairedTest:
    """A paired test of two predictors on the same rows.

    Attributes:
        one, other: their names.
        labels: the number of labels they had.
        seeds: the number of seeds that both have.
        difference: the metric of `one` minus that of `other`, mean over these seeds.
        p: of the difference, see `probability`.
        adjusted: the same after Holm's correction for all tests of its family.
        outcome: better or worse if `adjusted` is less than 1 - confidence, else no evidence.
        wins, losses: rows on which `one` is right in more seeds than `other`, and the reverse.
        rows_p: of McNemar's test, which counts rows and does not depend on the metric.
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
        """Whether the interval, uncorrected, excludes zero."""
        return self.difference.low > 0 or self.difference.high < 0


@dataclass
class TrialScores:
    """The scores of all trials on the same rows.

    Attributes:
        examples: the rows, with their targets and weights.
        metric: that decides.
        answers: of each finished trial.
        bootstrap: for the intervals.
    """

    examples: Examples
    metric: str
    answers: Mapping[Trial, TrialOutputs]
    bootstrap: Bootstrap
    _drawn: dict[Trial, np.ndarray] = field(default_factory=dict, init=False)
    _values: dict[Trial, float] = field(default_factory=dict, init=False)
    _wrong: dict[Trial, np.ndarray] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        # Sorted by id, as in a run, so that figures do not depend on the order of the file or of gathering.
        self._order = np.argsort(np.asarray(self.examples.ids), kind="stable")
        self._targets = self.examples.targets[self._order]
        self._weights = self.examples.weights[self._order].astype(np.float64)

    @property
    def sign(self) -> int:
        """1 if higher values of the metric are better, else -1."""
        return sign_of(self.metric)

    def seeds(self, *names: str, labels: str) -> list[int]:
        """Return the seeds that all of these names have answers for."""
        seeds = [{each.seed for each in self.answers if (each.name, each.labels) == (name, labels)} for name in names]
        return sorted(set.intersection(*seeds))

    def values(self, name: str, labels: str) -> list[float]:
        """Return the metric for every seed."""
        return [self._value(Trial(name, labels, seed)) for seed in self.seeds(name, labels=labels)]

    def figure(self, name: str, labels: str) -> Interval:
        """Return the mean of the metric over the seeds with its interval, see `over_seeds`; nan without answers."""
        trials = [Trial(name, labels, seed) for seed in self.seeds(name, labels=labels)]
        if not trials:
            return Interval(np.nan, np.nan, np.nan)
        drawn = np.stack([self._replicates(trial) for trial in trials])
        figure = over_seeds([self._value(trial) for trial in trials], drawn, confidence=self.bootstrap.confidence)
        return within(figure, *range_of(self.metric))

    def paired_tests(self, pairs: Sequence[tuple[str, str, str]]) -> list[PairedTest]:
        """Return a family of tests, corrected together (Holm 1979); pairs without a common seed are left out.

        The outcome follows the test of the metric that decides. The exact McNemar test (1947) is given too: of the rows
        on which two equally good predictors differ, each is right on half. With several seeds, a row counts for the
        predictor that is right in more of them; for numbers or label sets, for the nearer one. It is about these
        trainings only, whereas the interval covers other seeds.

        Args:
            pairs: names of both predictors, and the number of labels they had.
        """
        tests = [self._paired_test(*pair) for pair in pairs if self.seeds(*pair[:2], labels=pair[2])]
        adjusted, rows_adjusted = (holm([getattr(test, name) for test in tests]) for name in ("p", "rows_p"))
        return [
            dataclasses.replace(test, adjusted=p, rows_adjusted=rows_p, outcome=self._outcome(test.difference, p))
            for test, p, rows_p in zip(tests, adjusted, rows_adjusted, strict=True)
        ]

    def _outcome(self, difference: Interval, p: float) -> str:
        return outcome(difference, self.sign) if p < 1 - self.bootstrap.confidence else "no evidence"

    def gains(self, one: str, other: str, labels: str) -> np.ndarray:
        """Return the errors of `other` less those of `one`, (seeds, rows) in the order of the examples."""
        gains = np.empty((len(self.seeds(one, other, labels=labels)), len(self._order)))
        gains[:, self._order] = self._gains(one, other, labels)
        return gains

    def _paired_test(self, one: str, other: str, labels: str) -> PairedTest:
        pairs = [
            (Trial(one, labels, seed), Trial(other, labels, seed)) for seed in self.seeds(one, other, labels=labels)
        ]
        values = [self._value(ours) - self._value(theirs) for ours, theirs in pairs]
        drawn = np.stack([self._replicates(ours) - self._replicates(theirs) for ours, theirs in pairs])
        least, most = range_of(self.metric)
        difference = within(over_seeds(values, drawn, confidence=self.bootstrap.confidence), least - most, most - least)
        p = probability(values, drawn)
        wins, losses, rows_p = mcnemar(self._gains(one, other, labels).mean(axis=0)[self._weights > 0])
        return PairedTest(
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
            answers = self.answers[trial]
            values = compute(answers.task, answers.logits[self._order], self._targets, self._weights)
            self._values[trial] = values[self.metric]
        return self._values[trial]

    def _replicates(self, trial: Trial) -> np.ndarray:
        """Return the metric on every resample of the rows; all trials share the resamples."""
        if trial not in self._drawn:
            answers = self.answers[trial]
            (drawn,) = self.bootstrap.replicates(
                [answers.task],
                [answers.logits[self._order]],
                self._targets,
                self._weights,
                metrics=[self.metric],
            )
            self._drawn[trial] = drawn[self.metric]
        return self._drawn[trial]

    def _errors(self, trial: Trial) -> np.ndarray:
        if trial not in self._wrong:
            answers = self.answers[trial]
            self._wrong[trial] = errors(answers.task, answers.logits[self._order], self._targets)
        return self._wrong[trial]


def over_seeds(values: Sequence[float], drawn: np.ndarray, *, confidence: float) -> Interval:
    r"""Return the mean over seeds with an interval over other test rows and other seeds.

    Both sources of variation are independent, so their margins add as squares: the distances to the percentiles of the
    mean over resampled rows, and :math:`t_{n-1} \, s / \sqrt{n}` for n seeds with standard deviation s. (Bootstrapping
    three seeds would never exceed their range, which is far too narrow.) With one seed, the interval is over rows only.

    Args:
        values: of each seed.
        drawn: (seeds, resamples), the values on resampled rows.
        confidence: of the interval.
    """
    from scipy.stats import t

    seeds, value = len(values), float(np.mean(values))
    rows = interval(value, drawn.mean(axis=0), confidence=confidence)
    if seeds == 1:
        return rows
    margin = float(t.ppf((1 + confidence) / 2, seeds - 1) * np.std(values, ddof=1) / np.sqrt(seeds))
    return Interval(
        value, value - float(np.hypot(value - rows.low, margin)), value + float(np.hypot(rows.high - value, margin))
    )


def probability(values: Sequence[float], drawn: np.ndarray) -> float:
    """Return the two-sided p-value of a difference by inverting the interval of `over_seeds`.

    It is below 0.05 if the 95 % interval excludes zero, and likewise for every confidence. With n resamples it is at
    least 2 / (n + 1).

    Args:
        values: the difference for each seed.
        drawn: (seeds, resamples), the differences on resampled rows.
    """
    defined = int((~np.isnan(drawn).any(axis=0)).sum())
    least, most = min(1.0, 2 / (defined + 1)), 1.0

    def excludes_zero(p: float) -> bool:
        difference = over_seeds(values, drawn, confidence=1 - p)
        return difference.low > 0 or difference.high < 0

    if excludes_zero(least):
        return least
    for _ in range(_BISECTIONS):
        middle = (least + most) / 2
        least, most = (least, middle) if excludes_zero(middle) else (middle, most)
    return most


def within(figure: Interval, least: float, most: float) -> Interval:
    """Clip an interval to the possible values, which the margin over few seeds may exceed."""
    return dataclasses.replace(figure, low=max(figure.low, least), high=min(figure.high, most))


def errors(task: Task, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the error of the decision on every row, (rows,).

    single_label: 0 or 1, for soft labels the share of the other labels; ordinal: the difference of ranks; multi_label:
    the number of wrong labels; regression: the absolute error.
    """
    predicted = decide(task, logits)
    if task.problem == "regression":
        return np.abs(predicted - targets)
    if task.problem == "multi_label":
        return (predicted != (targets >= 0.5)).sum(axis=1).astype(np.float64)
    ranks = np.arange(len(task.labels))
    costs = np.abs(ranks - predicted[:, None]) if task.problem == "ordinal" else (ranks != predicted[:, None])
    if targets.ndim == 1:
        return costs[np.arange(len(targets)), targets].astype(np.float64)
    return (targets * costs).sum(axis=1)


def mcnemar(gains: np.ndarray) -> tuple[int, int, float]:
    """Return the numbers of rows won and lost, and the exact two-sided p-value of McNemar's test."""
    from scipy.stats import binomtest

    wins, losses = int((gains > 0).sum()), int((gains < 0).sum())
    return wins, losses, float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def holm(probabilities: Sequence[float]) -> list[float]:
    """Return p-values with Holm's (1979) correction for multiple tests."""
    adjusted, least = [1.0] * len(probabilities), 0.0
    for place, number in enumerate(np.argsort(probabilities, kind="stable")):
        least = max(least, min(1.0, (len(probabilities) - place) * probabilities[number]))
        adjusted[number] = least
    return adjusted
