"""Which runs lag behind: their evaluations are read from metrics.jsonl while they go on, and a pruner looks at them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_transfer import config
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.names import DEFAULT_METRIC
from nlp_transfer.strategies import Auto
from nlp_transfer.sweeping.job import PRUNED, Job

if TYPE_CHECKING:
    from optuna import Trial

    from nlp_transfer.settings import Settings
    from nlp_transfer.sweeping.work import Words


_BY_NAME = "hydra.sweeper.pruner needs strategies by their names, such as strategy=finetune"
_OF_THE_SOLVER = {"strategy", "strategy.solver"}  # a search among these has a run that is solved beside others


class Lagging:
    """Asked of a run again and again while it goes on.

    Args:
        recipe: of all runs.
        metric: that decides; auto: that of the problem type, which the run has found by the time it evaluates.
        searched: the keys that differ from run to run, with what Optuna draws them from.

    Raises:
        UserError: for the strategy that is chosen only when the rows have been read: nobody knows the folder before.
    """

    def __init__(self, recipe: str | None, metric: str, searched: Mapping[str, Any]) -> None:
        if "auto" in getattr(searched.get("strategy"), "choices", ()):
            raise UserError(_BY_NAME)
        self._recipe, self._metric = recipe, metric
        self._may_be_solved = not _OF_THE_SOLVER.isdisjoint(searched)
        self._watched: dict[Words, _Watched] = {}

    def watch(self, runs: Sequence[Words], trials: Sequence[Trial]) -> None:
        """Look at these runs from now on.

        Args:
            runs: their words.
            trials: theirs.

        Raises:
            UserError: for that strategy, and where no run of the search has evaluations.
        """
        self._watched = {}
        for words, trial in zip(runs, trials, strict=True):
            settings = settings_of(self._recipe, words)
            if isinstance(settings.strategy, Auto):
                raise UserError(_BY_NAME)
            if not (settings.strategy.trains or self._may_be_solved):
                raise UserError(
                    "hydra.sweeper.pruner ends runs by their evaluations, and a probe that is solved has none: leave "
                    "it out, or take strategy.solver=adamw"
                )
            self._watched.setdefault(words, _Watched(config.run_path(settings), trial))

    def __call__(self, words: Words) -> bool:
        """Return whether the run is to be ended."""
        return any(trial.should_prune() for trial in self._reported(words))

    def rest(self, words: Words, job: Job) -> Job:
        """Take in what a run that has ended was not asked about any more, for others are compared with it.

        Returns:
            What became of it: of one that was ended early with the figure of its last evaluation.
        """
        for _ in self._reported(words):
            pass
        figures = self._watched[words].figures(self._metric)
        return dataclasses.replace(job, figure=figures[-1]) if job.state == PRUNED and figures else job

    def _reported(self, words: Words) -> Any:
        """Yield the trial after each evaluation that is new."""
        watched = self._watched[words]
        for number, value in enumerate(watched.figures(self._metric), 1):
            if number > watched.seen:
                watched.seen = number
                watched.trial.report(value, number)
                yield watched.trial


def settings_of(recipe: str | None, words: Sequence[str]) -> Settings:
    """Return the settings of a run while Hydra is at a sweep, which it keeps in one place for the whole process."""
    from hydra.core.global_hydra import GlobalHydra

    there = GlobalHydra.instance()
    at, there.hydra = there.hydra, None
    try:
        return config.compose(recipe, words)
    finally:
        there.hydra = at


class _Watched:
    """A run whose evaluations are read.

    Attributes:
        seen: how many were told to the trial.
    """

    def __init__(self, folder: Path, trial: Trial) -> None:
        self._folder, self.trial = folder, trial
        known = trial.study.trials[trial.number].intermediate_values
        self.seen = max(known, default=0)
        self._evaluations = list[dict[str, Any]]()
        self._file, self._read = 0, 0  # which file was read, and how many bytes of it

    def figures(self, metric: str) -> list[float]:
        """Return the figures of the evaluations so far."""
        try:
            self._go_on()
            if metric == "auto":
                plan = json.loads((self._folder / "plan.json").read_text(encoding="utf-8"))
                metric = DEFAULT_METRIC[plan["problem"]]
        except (OSError, ValueError):  # it has not begun
            return []
        return [float(values[metric]) for values in self._evaluations if values.get(metric) is not None]

    def _go_on(self) -> None:
        """Read what was added, up to the last whole line; a run that went back to a checkpoint has a new file."""
        path = self._folder / "metrics.jsonl"
        there = path.stat()
        if there.st_ino != self._file or there.st_size < self._read:
            self._evaluations, self._file, self._read = [], there.st_ino, 0
        if there.st_size == self._read:
            return
        with path.open("rb") as lines:
            lines.seek(self._read)
            content = lines.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            if b'"validation"' in line:  # the others are steps, of which there are many
                self._evaluations.append(json.loads(line))
