"""Hyperparameter search with Optuna as a Hydra sweeper, which can be interrupted and resumed.

This process alone proposes trials; all processes of a trial get the same words.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.names import HIGHER_IS_BETTER
from nlp_transfer.sweeping.job import FAILED, FINISHED, Job
from nlp_transfer.sweeping.pruning import PruningMonitor
from nlp_transfer.sweeping.settings import SearchSettings, of_hydra
from nlp_transfer.sweeping.space import Space
from nlp_transfer.sweeping.sweep import Sweep, sweep_of

if TYPE_CHECKING:
    from optuna import Trial

    from nlp_transfer.sweeping.execution import Words

_MAX_FAILED = 3  # failed trials after which the search ends, if none has succeeded


class OptunaSweeper(Sweeper):
    """``hydra/sweeper=optuna``: proposes trials batch by batch."""

    __module__ = "hydra_plugins.nlp_transfer"  # see ``plugins.register``

    def __init__(self, **keys: Any) -> None:
        self._keys = keys
        self._sweep: Sweep
        self._settings: SearchSettings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Check the keys, make the launcher and connect to the sweep."""
        self._settings = of_hydra(SearchSettings, self._keys)
        jobs, proposed = OmegaConf.select(config, "hydra.launcher.jobs"), self._settings.n_jobs
        if isinstance(jobs, int) and jobs > proposed:
            raise UserError(
                f"hydra.launcher.jobs={jobs} has no effect if only {proposed} at once are proposed: "
                f"add hydra.sweeper.n_jobs={jobs}"
            )
        self._sweep = sweep_of(task_function)
        self._sweep.begin(config)
        self._context, self._config = hydra_context, config
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the missing trials; trials that an earlier process has left unfinished come first."""
        from nlp_transfer.sweeping.trials import Trials

        settings, metric = self._settings, str(OmegaConf.select(self._config, "evaluation.metric"))
        parser = OverridesParser.create(config_loader=self._context.config_loader)
        space = Space.of(parser.parse_overrides(arguments))
        if "evaluation.metric" in space.distributions:
            raise UserError("evaluation.metric decides between trials; give it one value")
        trials = Trials(self._sweep.folder, settings, space, higher=HIGHER_IS_BETTER.get(metric, True))
        monitor = PruningMonitor(self._sweep.recipe, metric, space.distributions) if settings.pruner else None
        self._sweep.jobs |= trials.jobs
        self._sweep.total = trials.total
        while batch := trials.unfinished()[: settings.n_jobs] or trials.propose(settings.n_jobs):
            runs = [space.words_of(trial.params) for trial in batch]
            new = [index for index, words in enumerate(runs) if words not in self._sweep.jobs]
            if new:  # samplers may propose a point again
                self._run([batch[index] for index in new], [runs[index] for index in new], monitor)
            for trial, words in zip(batch, runs, strict=True):
                trials.tell(trial, self._sweep.jobs[words])
            if trials.failed >= _MAX_FAILED and not trials.jobs:
                return

    def _run(self, trials: list[Trial], runs: list[Words], monitor: PruningMonitor | None) -> None:
        """Execute the runs of trials."""
        if monitor:
            monitor.watch(runs, trials)
            self._sweep.should_prune = monitor
        self._launcher.launch(runs, initial_job_idx=trials[0].number)
        for words in dict.fromkeys(runs):
            job = self._sweep.jobs[words]
            self._sweep.jobs[words] = _with_figure(monitor.finish(words, job) if monitor else job)


def _with_figure(job: Job) -> Job:
    """Return the job, marked as failed if it finished without a figure."""
    if job.state != FINISHED or job.figure is not None:
        return job
    said = "it has no figure on validation rows, which a search needs (data.validation_share makes some)"
    return dataclasses.replace(job, state=FAILED, status=UserError.status, said=said)
