"""The order of trials, and which are left out under a time budget; works on scores and seconds only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from nlp_transfer.comparing.grid import Trial


class TrialResult(NamedTuple):
    """The result of a finished trial.

    Attributes:
        score: on validation rows; higher is better.
        seconds: how long it took when it was run.
    """

    score: float
    seconds: float


@dataclass
class Schedule:
    """The trials of a grid in order of their value.

    Without a budget every trial is run, the whole learning curve for one seed before the next.

    With a budget, candidates are halved between numbers of labels (successive halving, Jamieson and Talwalkar 2016,
    AISTATS, with rows as the resource). From the second number on, the better half survives, with ties, and with
    candidates that came closer to the best one than before, since learning curves may cross. Further seeds go to the
    survivors first. Trials that would end too late, judging by the time of earlier ones, are left out. Baselines are
    not halved.

    Attributes:
        candidates: their names.
        baselines: names of the trained baselines.
        labels: numbers of labels, in ascending order.
        seeds: of the trials.
        left: returns the remaining seconds; None: no budget.
        work: returns the amount of work of a trial, comparable between trials of the same candidate.
        is_kept: whether a trial was finished by an earlier process, so that it takes no time.
        tie: scores that differ by no more count as equal.
        done: the finished trials, filled by the caller.
        left_out: trials that are not run, and why.
    """

    candidates: Sequence[str]
    baselines: Sequence[str]
    labels: Sequence[str]
    seeds: Sequence[int]
    left: Callable[[], float] | None = None
    work: Callable[[Trial], float] = lambda _: 1.0
    is_kept: Callable[[Trial], bool] = lambda _: False
    tie: float = 0.0
    done: dict[Trial, TrialResult] = field(default_factory=dict)
    left_out: dict[Trial, str] = field(default_factory=dict)

    @property
    def all(self) -> list[Trial]:
        """Every trial of the grid."""
        names = [*self.candidates, *self.baselines]
        return [Trial(name, labels, seed) for seed in self.seeds for labels in self.labels for name in names]

    def __iter__(self) -> Iterator[Trial]:
        """Yield the trials; which is next depends on the results in `done`."""
        if self.left is None:
            yield from self.all
            return
        first, *others = self.seeds
        alive, before = list(self.candidates), None
        for labels in self.labels:
            yield from self._affordable(Trial(name, labels, first) for name in [*alive, *self.baselines])
            scores = {each.name: result.score for each, result in self.done.items() if each[1:] == (labels, first)}
            survivors = self._survivors({name: scores[name] for name in alive if name in scores}, before) or alive
            for trial in self.all:
                if trial.name in alive and trial.name not in survivors and trial not in {*self.done, *self.left_out}:
                    self.left_out[trial] = "not among the best with fewer labels"
            alive, before = survivors, scores
        for seed in others:
            for labels in self.labels:
                names = sorted([*self.candidates, *self.baselines], key=lambda name: name not in alive)
                yield from self._affordable(
                    trial
                    for trial in (Trial(name, labels, seed) for name in names)
                    if trial._replace(seed=first) in self.done
                )
        for trial in self.all:
            if trial not in self.done:
                self.left_out.setdefault(trial, "no time")

    def expected(self, trial: Trial) -> float:
        """Estimate the seconds of a trial from the candidate's largest finished one, in proportion to their work."""
        results = {each: result for each, result in self.done.items() if each.name == trial.name}
        if not results:
            return 0.0
        largest = max(results, key=lambda each: (self.work(each), -results[each].seconds))
        return results[largest].seconds * self.work(trial) / self.work(largest)

    def _affordable(self, trials: Iterator[Trial]) -> Iterator[Trial]:
        assert self.left is not None
        for trial in trials:
            left = self.left()
            if self.is_kept(trial) or (left > 0 and self.expected(trial) <= left):
                self.left_out.pop(trial, None)
                yield trial
            else:
                self.left_out[trial] = "no time"

    def _survivors(self, scores: Mapping[str, float], before: Mapping[str, float] | None) -> list[str]:
        """Return the surviving candidates; after the first number of labels all, as one point gives no trend."""
        if before is None or not scores:
            return list(scores)
        best, best_before = max(scores.values()), max(before[name] for name in scores)
        last = sorted(scores.values(), reverse=True)[(len(scores) - 1) // 2]
        near = {name for name in scores if scores[name] >= last - self.tie}
        return [name for name in scores if name in near or best - scores[name] < best_before - before[name]]
