"""Which trial comes next, and which are not worth their time under a budget; it knows scores and seconds, no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from nlp_transfer.comparing.grid import Trial


class Tried(NamedTuple):
    """What is known of a trial that was done.

    Attributes:
        score: on validation rows; higher is better.
        seconds: that it took when it was done.
    """

    score: float
    seconds: float


@dataclass
class Schedule:
    """The trials of a grid in the order in which they are worth most.

    Without a budget every trial is done: one seed for the whole learning curve first, then the next one.

    With one, candidates are halved from one number of labels to the next (successive halving, Jamieson and Talwalkar
    2016, AISTATS, with rows as the resource): from the second number on the better half goes on, with whoever is as
    good, and whoever came nearer to the best than it was at the number before, for learning curves cross. Further seeds
    go to those that are left, then to the others. A trial that by the seconds of earlier ones would end too late is
    left out. Floors are not halved.

    Attributes:
        candidates: their names.
        floors: of the floors that are trained.
        labels: numbers of labels, from few to many.
        seeds: of the trials.
        left: returns the seconds that are left; None: as many as it takes.
        work: returns how much a trial has to do, beside others of the same candidate.
        is_kept: whether a trial was done by an earlier process: it costs nothing.
        tie: by how much scores differ that are as good.
        done: filled by whoever does the trials.
        left_out: trials that were passed over, and why.
    """

    candidates: Sequence[str]
    floors: Sequence[str]
    labels: Sequence[str]
    seeds: Sequence[int]
    left: Callable[[], float] | None = None
    work: Callable[[Trial], float] = lambda _: 1.0
    is_kept: Callable[[Trial], bool] = lambda _: False
    tie: float = 0.0
    done: dict[Trial, Tried] = field(default_factory=dict)
    left_out: dict[Trial, str] = field(default_factory=dict)

    @property
    def all(self) -> list[Trial]:
        """Every trial of the grid."""
        names = [*self.candidates, *self.floors]
        return [Trial(name, labels, seed) for seed in self.seeds for labels in self.labels for name in names]

    def __iter__(self) -> Iterator[Trial]:
        """Yield each trial; which is the next depends on what `done` says of those before."""
        if self.left is None:
            yield from self.all
            return
        first, *others = self.seeds
        alive, before = list(self.candidates), None
        for labels in self.labels:
            yield from self._affordable(Trial(name, labels, first) for name in [*alive, *self.floors])
            scores = {each.name: tried.score for each, tried in self.done.items() if each[1:] == (labels, first)}
            kept = self._survivors({name: scores[name] for name in alive if name in scores}, before) or alive
            for trial in self.all:
                if trial.name in alive and trial.name not in kept and trial not in {*self.done, *self.left_out}:
                    self.left_out[trial] = "not among the better ones with fewer labels"
            alive, before = kept, scores
        for seed in others:
            for labels in self.labels:
                names = sorted([*self.candidates, *self.floors], key=lambda name: name not in alive)
                yield from self._affordable(
                    trial
                    for trial in (Trial(name, labels, seed) for name in names)
                    if trial._replace(seed=first) in self.done
                )
        for trial in self.all:
            if trial not in self.done:
                self.left_out.setdefault(trial, "no time")

    def expected(self, trial: Trial) -> float:
        """Return how many seconds a trial may take: by the candidate's largest one and what both have to do."""
        of = {each: tried for each, tried in self.done.items() if each.name == trial.name}
        if not of:
            return 0.0
        largest = max(of, key=lambda each: (self.work(each), -of[each].seconds))
        return of[largest].seconds * self.work(trial) / self.work(largest)

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
        """Return who goes on: all after the first number of labels, for one point does not say where a curve goes."""
        if before is None or not scores:
            return list(scores)
        best, best_before = max(scores.values()), max(before[name] for name in scores)
        last = sorted(scores.values(), reverse=True)[(len(scores) - 1) // 2]
        near = {name for name in scores if scores[name] >= last - self.tie}
        return [name for name in scores if name in near or best - scores[name] < best_before - before[name]]
