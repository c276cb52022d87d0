"""The trials of a search, stored as JSON lines; each depends only on the seed and on the results before it.

A trial whose run failed or was stopped gets no result: it remains unfinished, and the same command runs it again.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_transfer.errors import UserError
from nlp_transfer.sweeping.job import FINISHED, PRUNED, Job

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

    from nlp_transfer.sweeping.execution import Words
    from nlp_transfer.sweeping.settings import SearchSettings
    from nlp_transfer.sweeping.space import Space

_FILE = "trials.jsonl"
_JOB = "job"  # the attribute of a trial that holds the outcome of its run


class Trials:
    """The finished and unfinished trials of a search.

    Args:
        folder: of the sweep.
        settings: of the search.
        space: the search space.
        higher: whether higher values of the metric are better.

    Attributes:
        total: how many runs there will be.
        jobs: the runs of trials with a result, by their words.

    Raises:
        UserError: for a file of trials that cannot be read, and a space that the sampler does not support.
    """

    def __init__(self, folder: Path, settings: SearchSettings, space: Space, *, higher: bool) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space, self._settings = space, settings
        self._sampler, self._max_trials = _sampler(settings, space)
        self.total = int(min(self._max_trials, space.size))
        self._failed: set[int] = set()
        path = folder / _FILE
        try:
            _truncate_incomplete(path, len(space.distributions))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the backend is experimental
                backend = JournalFileBackend(str(path))
                self._study: Study = optuna.create_study(
                    storage=optuna.storages.JournalStorage(backend),
                    study_name="sweep",
                    sampler=self._sampler(0),
                    pruner=_pruner(settings),
                    direction="maximize" if higher else "minimize",
                    load_if_exists=True,
                )
            finished = [trial for trial in self._study.trials if _JOB in trial.user_attrs]
            jobs = [Job.from_json(trial.user_attrs[_JOB]) for trial in finished]
        except (OSError, LookupError, TypeError, ValueError) as error:
            raise UserError(f"{path} cannot be read as trials ({error}); remove it to start again") from error
        self.jobs: dict[Words, Job] = {job.words: job for job in jobs}

    @property
    def failed(self) -> int:
        """How many trials failed in this process."""
        return len(self._failed)

    def unfinished(self) -> list[Trial]:
        """Return the trials that an earlier process did not finish, or whose runs failed there."""
        import optuna

        trials: list[Trial] = []
        for trial in self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            if trial.number not in self._failed:
                trials.append(optuna.trial.Trial(self._study, trial._trial_id))
        return trials

    def propose(self, count: int) -> list[Trial]:
        """Return at most `count` new trials; none once the search has all its trials or all combinations were run."""
        begun = len(self._study.get_trials(deepcopy=False))
        until = min(begun + count, self._max_trials) if len(self.jobs) < self._space.size else begun
        trials: list[Trial] = []
        for number in range(begun, until):
            self._study.sampler = self._sampler(number)
            trials.append(self._study.ask(dict(self._space.distributions)))
        return trials

    def tell(self, trial: Trial, job: Job) -> None:
        """Store the outcome of the run of a trial."""
        import optuna

        if job.state == FINISHED and job.figure is not None:
            trial.set_user_attr(_JOB, job.to_json())
            self._study.tell(trial, job.figure)
        elif job.state == PRUNED:
            trial.set_user_attr(_JOB, job.to_json())
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            self._failed.add(trial.number)
            return
        self.jobs[job.words] = job


def _sampler(settings: SearchSettings, space: Space) -> tuple[Callable[[int], BaseSampler], int]:
    """Return a function from the number of a trial to its sampler, and how many trials there will be.

    A new sampler for each trial has no state that would be lost with the process.
    """
    from optuna import samplers

    seed = settings.seed
    if settings.sampler == "grid":
        grid: Any = space.grid()

        class Grid(samplers.GridSampler):
            def after_trial(self, *_: Any) -> None:
                """Do not stop the study: `Trials` counts the trials."""

        return lambda _: Grid(grid, seed=seed), int(min(settings.n_trials, space.size))
    if settings.sampler == "qmc":
        return lambda _: _qmc_sampler(seed), settings.n_trials
    make: Callable[[int], BaseSampler] = {
        "random": lambda number: samplers.RandomSampler(seed=_trial_seed(seed, number)),
        "tpe": lambda number: samplers.TPESampler(n_startup_trials=settings.startup, seed=_trial_seed(seed, number)),
    }[settings.sampler]
    return make, settings.n_trials


def _qmc_sampler(seed: int) -> BaseSampler:
    """Return a quasi-Monte Carlo sampler; it stores the index of the next point in the study itself."""
    from optuna import samplers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the sampler is experimental
        return samplers.QMCSampler(scramble=True, seed=seed, warn_asynchronous_seeding=False)


def _trial_seed(seed: int, number: int) -> int:
    """Return the seed of a trial; seeds of different searches are independent, even if theirs are consecutive."""
    import numpy as np

    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _pruner(settings: SearchSettings) -> BasePruner:
    """Return the pruner; it counts evaluations, because steps of different batch sizes are not comparable."""
    from optuna import pruners

    if settings.pruner == "median":
        return pruners.MedianPruner(n_startup_trials=settings.startup)
    if settings.pruner == "halving":
        return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    return pruners.NopPruner()


def _truncate_incomplete(path: Path, keys: int) -> None:
    """Remove the end of a file that a killed process wrote incompletely; it is written again, to the same bits.

    The end may be an incomplete line, or a last trial without all of its values.

    Args:
        path: of the file.
        keys: how many values a trial has.
    """
    from optuna.storages.journal._storage import JournalOperation

    if not path.is_file():
        return
    content = path.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    last_trial, values, offset = 0, keys, 0
    for line in complete.splitlines(keepends=True):
        operation = json.loads(line)["op_code"]
        if operation == JournalOperation.CREATE_TRIAL:
            last_trial, values = offset, 0
        values += operation == JournalOperation.SET_TRIAL_PARAM
        offset += len(line)
    end = offset if values >= keys else last_trial
    if end < len(content):
        os.truncate(path, end)
