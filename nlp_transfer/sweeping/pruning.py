"""Prune runs that lag behind: their evaluations are read from metrics.jsonl and reported to Optuna's pruner."""

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

    from nlp_transfer.sweeping.execution import Words


_BY_NAME = "hydra.sweeper.pruner needs strategies by their names, such as strategy=finetune"
_SOLVER_KEYS = {"strategy", "strategy.solver"}  # if these are searched, some runs may be exactly solved probes


class PruningMonitor:
    """Decides, while runs go on, which of them to prune.

    Args:
        recipe: of all runs.
        metric: the metric that decides; auto: the default of the problem type, which the run writes to its plan.
        searched: the keys that differ from run to run, with their Optuna distributions.

    Raises:
        UserError: for strategy=auto, which is resolved only with the rows: the run folder is not known before.
    """

    def __init__(self, recipe: str | None, metric: str, searched: Mapping[str, Any]) -> None:
        if "auto" in getattr(searched.get("strategy"), "choices", ()):
            raise UserError(_BY_NAME)
        self._recipe, self._metric = recipe, metric
        self._may_be_solved = not _SOLVER_KEYS.isdisjoint(searched)
        self._watched: dict[Words, _Watched] = {}

    def watch(self, runs: Sequence[Words], trials: Sequence[Trial]) -> None:
        """Monitor these runs from now on.

        Args:
            runs: the words of each run.
            trials: the trial of each run.

        Raises:
            UserError: for strategy=auto, and if no run of the search has evaluations.
        """
        self._watched = {}
        for words, trial in zip(runs, trials, strict=True):
            settings = config.compose(self._recipe, words)
            if isinstance(settings.strategy, Auto):
                raise UserError(_BY_NAME)
            if not (settings.strategy.trains or self._may_be_solved):
                raise UserError(
                    "hydra.sweeper.pruner ends runs by their evaluations, and a probe that is solved has none: leave "
                    "it out, or take strategy.solver=adamw"
                )
            self._watched.setdefault(words, _Watched(config.run_path(settings), trial))

    def __call__(self, words: Words) -> bool:
        """Return whether to end the run early."""
        return any(trial.should_prune() for trial in self._reported(words))

    def finish(self, words: Words, job: Job) -> Job:
        """Report the remaining evaluations of a run that has ended, with which other runs are compared.

        Returns:
            The job; if it was pruned, with the figure of its last evaluation.
        """
        for _ in self._reported(words):
            pass
        figures = self._watched[words].figures(self._metric)
        return dataclasses.replace(job, figure=figures[-1]) if job.state == PRUNED and figures else job

    def _reported(self, words: Words) -> Any:
        """Report each new evaluation to the trial, and yield the trial after each."""
        watched = self._watched[words]
        for number, value in enumerate(watched.figures(self._metric), 1):
            if number > watched.reported:
                watched.reported = number
                watched.trial.report(value, number)
                yield watched.trial


class _Watched:
    """A run whose evaluations are read from its metrics.jsonl.

    Attributes:
        reported: how many evaluations were reported to the trial.
    """

    def __init__(self, folder: Path, trial: Trial) -> None:
        self._folder, self.trial = folder, trial
        values = trial.study.trials[trial.number].intermediate_values
        self.reported = max(values, default=0)
        self._evaluations = list[dict[str, Any]]()
        self._inode, self._offset = 0, 0  # the file that was read, and how many bytes of it

    def figures(self, metric: str) -> list[float]:
        """Return the figures of all evaluations so far."""
        try:
            self._read_new()
            if metric == "auto":
                plan = json.loads((self._folder / "plan.json").read_text(encoding="utf-8"))
                metric = DEFAULT_METRIC[plan["problem"]]
        except (OSError, ValueError):  # the run has not written them yet
            return []
        return [float(values[metric]) for values in self._evaluations if values.get(metric) is not None]

    def _read_new(self) -> None:
        """Read new complete lines; a run that resumed from a checkpoint has replaced the file."""
        path = self._folder / "metrics.jsonl"
        status = path.stat()
        if status.st_ino != self._inode or status.st_size < self._offset:
            self._evaluations, self._inode, self._offset = [], status.st_ino, 0
        if status.st_size == self._offset:
            return
        with path.open("rb") as lines:
            lines.seek(self._offset)
            content = lines.read()
        complete = content[: content.rfind(b"\n") + 1]
        self._offset += len(complete)
        for line in complete.splitlines():
            if b'"validation"' in line:  # skips the many lines of steps
                self._evaluations.append(json.loads(line))
