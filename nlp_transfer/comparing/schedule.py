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
    2016, AISTATS, with rows as the resource): from the second number on the better half goes on, and whoever came
    nearer to the best than it was at the number before, for learning curves cross. Further seeds go to those that are
    left, then to the others. A trial that by the seconds of earlier ones would end too late is left out. Floors are not
    halved.

    Attributes:
        candidates: their names.
        floors: of the floors that are trained.
        rows: training rows of each number of labels, from few to many.
        seeds: of the trials.
        left: returns the seconds that are left; None: as many as it takes.
        is_kept: whether a trial was done by an earlier process: it costs nothing.
        done: filled by whoever does the trials.
        left_out: trials that were passed over, and why.
    """

    candidates: Sequence[str]
    floors: Sequence[str]
    rows: Mapping[str, int]
    seeds: Sequence[int]
    left: Callable[[], float] | None = None
    is_kept: Callable[[Trial], bool] = lambda _: False
    done: dict[Trial, Tried] = field(default_factory=dict)
    left_out: dict[Trial, str] = field(default_factory=dict)

    @property
    def all(self) -> list[Trial]:
        """Every trial of the grid."""
        names = [*self.candidates, *self.floors]
        return [Trial(name, labels, seed) for seed in self.seeds for labels in self.rows for name in names]

    def __iter__(self) -> Iterator[Trial]:
        """Yield each trial; which is the next depends on what `done` says of those before."""
        if self.left is None:
            yield from self.all
            return
        first, *others = self.seeds
        alive, before = list(self.candidates), None
        for labels in self.rows:
            yield from self._affordable(Trial(name, labels, first) for name in [*alive, *self.floors])
            scores = {each.name: tried.score for each, tried in self.done.items() if each[1:] == (labels, first)}
            alive = self._survivors({name: scores[name] for name in alive if name in scores}, before) or alive
            before = scores
        for name in sorted([*self.candidates, *self.floors], key=lambda name: name not in alive):
            known = (Trial(name, labels, seed) for seed in others for labels in self.rows)
            yield from self._affordable(each for each in known if Trial(name, each.labels, first) in self.done)
        for trial in self.all:
            if trial not in self.done:
                self.left_out.setdefault(trial, "not among the better ones with fewer labels")

    def expected(self, trial: Trial) -> float:
        """Return how many seconds a trial may take: those of the candidate's largest one by rows; 0 without any."""
        known = [
            (self.rows[each.labels], tried.seconds) for each, tried in self.done.items() if each.name == trial.name
        ]
        rows, seconds = max(known, default=(1, 0.0))
        return seconds * self.rows[trial.labels] / rows

    def _affordable(self, trials: Iterator[Trial]) -> Iterator[Trial]:
        assert self.left is not None
        for trial in trials:
            left = self.left()
            if self.is_kept(trial) or (left > 0 and self.expected(trial) <= left):
                yield trial
            else:
                self.left_out[trial] = "no time"

    @staticmethod
    def _survivors(scores: Mapping[str, float], before: Mapping[str, float] | None) -> list[str]:
        """Return who goes on: all after the first number of labels, for one point does not say where a curve goes."""
        if before is None or not scores:
            return list(scores)
        best, best_before = max(scores.values()), max(before[name] for name in scores)
        better = sorted(scores, key=lambda name: -scores[name])[: (len(scores) + 1) // 2]
        return [name for name in scores if name in better or best - scores[name] < best_before - before[name]]
