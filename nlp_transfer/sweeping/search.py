"""A search with Optuna as a part of Hydra: it proposes trials, learns from their validation figures, and can be killed.

Everything is decided in this one process: all processes of a trial are given the same words.
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
from nlp_transfer.sweeping.pruning import Lagging
from nlp_transfer.sweeping.settings import SearchSettings, of_hydra
from nlp_transfer.sweeping.space import Space
from nlp_transfer.sweeping.sweep import Sweep, sweep_of

if TYPE_CHECKING:
    from optuna import Trial

    from nlp_transfer.sweeping.work import Words

_HOPELESS = 3  # trials that fail before any succeeds, after which no more are tried


class OptunaSweeper(Sweeper):
    """``hydra/sweeper=optuna``: the values are proposed one batch after the other."""

    __module__ = "hydra_plugins.nlp_transfer"  # see ``plugins.register``

    def __init__(self, **keys: Any) -> None:
        self._keys = keys
        self._sweep: Sweep
        self._settings: SearchSettings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take the keys, which are checked here, the launcher, and the sweep that it is a part of."""
        self._settings = of_hydra(SearchSettings, self._keys)
        jobs, proposed = OmegaConf.select(config, "hydra.launcher.jobs"), self._settings.n_jobs
        if isinstance(jobs, int) and jobs > proposed:
            raise UserError(
                f"hydra.launcher.jobs={jobs} has no use where {proposed} at once are proposed: "
                f"add hydra.sweeper.n_jobs={jobs}"
            )
        self._sweep = sweep_of(task_function)
        self._sweep.begin(config)
        self._context, self._config = hydra_context, config
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Do the trials that are missing; those that were going on when an earlier process was killed come first."""
        from nlp_transfer.sweeping.trials import Trials

        settings, metric = self._settings, str(OmegaConf.select(self._config, "evaluation.metric"))
        parser = OverridesParser.create(config_loader=self._context.config_loader)
        space = Space.of(parser.parse_overrides(arguments))
        if "evaluation.metric" in space.distributions:
            raise UserError("evaluation.metric decides between trials; give it one value")
        trials = Trials(self._sweep.folder, settings, space, higher=HIGHER_IS_BETTER.get(metric, True))
        lagging = Lagging(self._sweep.recipe, metric, space.distributions) if settings.pruner else None
        self._sweep.jobs |= trials.known
        self._sweep.total = trials.most
        while batch := trials.going_on()[: settings.n_jobs] or trials.proposed(settings.n_jobs):
            runs = [space.words_of(trial.params) for trial in batch]
            new = [place for place, words in enumerate(runs) if words not in self._sweep.jobs]
            if new:  # samplers propose a point again
                self._do([batch[place] for place in new], [runs[place] for place in new], lagging)
            for trial, words in zip(batch, runs, strict=True):
                trials.tell(trial, self._sweep.jobs[words])
            if trials.failed >= _HOPELESS and not trials.known:
                return

    def _do(self, trials: list[Trial], runs: list[Words], lagging: Lagging | None) -> None:
        """Do the runs of trials."""
        if lagging:
            lagging.watch(runs, trials)
            self._sweep.lags = lagging
        self._launcher.launch(runs, initial_job_idx=trials[0].number)
        for words in dict.fromkeys(runs):
            job = self._sweep.jobs[words]
            self._sweep.jobs[words] = _with_figure(lagging.rest(words, job) if lagging else job)


def _with_figure(job: Job) -> Job:
    """Return the job, which has failed as a trial if it came to no figure."""
    if job.state != FINISHED or job.figure is not None:
        return job
    said = "it has no figure on validation rows, by which a search chooses (data.validation_share gives it some)"
    return dataclasses.replace(job, state=FAILED, status=UserError.status, said=said)
