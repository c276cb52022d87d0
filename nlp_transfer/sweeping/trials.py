"""The trials of a search, kept as JSON lines; each is a function of the seed and of what was told before.

A trial whose run failed or was stopped is not told: it stays one that is going on, and the same command takes it up.
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

    from nlp_transfer.sweeping.settings import SearchSettings
    from nlp_transfer.sweeping.space import Space
    from nlp_transfer.sweeping.work import Words

_FILE = "trials.jsonl"
_JOB = "job"  # the attribute of a trial that says what became of its run


class Trials:
    """Trials that were told and such as are going on.

    Args:
        folder: of the sweep.
        settings: of the search.
        space: that is searched.
        higher: whether more of the metric is better.

    Attributes:
        most: how many runs there will be.
        known: runs of those that were told, by their words.

    Raises:
        UserError: for a file of trials that cannot be read, and a space that the sampler cannot go through.
    """

    def __init__(self, folder: Path, settings: SearchSettings, space: Space, *, higher: bool) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space, self._settings = space, settings
        self._sampler, self._most = _sampler(settings, space)
        self.most = int(min(self._most, space.size))
        self._failed: set[int] = set()
        path = folder / _FILE
        try:
            _mend(path, len(space.distributions))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what is experimental there
                backend = JournalFileBackend(str(path))
                self._study: Study = optuna.create_study(
                    storage=optuna.storages.JournalStorage(backend),
                    study_name="sweep",
                    sampler=self._sampler(0),
                    pruner=_pruner(settings),
                    direction="maximize" if higher else "minimize",
                    load_if_exists=True,
                )
            told = [trial for trial in self._study.trials if _JOB in trial.user_attrs]
            jobs = [Job.from_json(trial.user_attrs[_JOB]) for trial in told]
        except (OSError, LookupError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} holds no trials that can be read ({error}); take it away to begin again"
            ) from error
        self.known: dict[Words, Job] = {job.words: job for job in jobs}

    @property
    def failed(self) -> int:
        """How many failed in this process."""
        return len(self._failed)

    def going_on(self) -> list[Trial]:
        """Return the trials that an earlier process was at, or whose runs failed there."""
        import optuna

        found: list[Trial] = []
        for trial in self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            if trial.number not in self._failed:
                found.append(optuna.trial.Trial(self._study, trial._trial_id))
        return found

    def proposed(self, count: int) -> list[Trial]:
        """Return new trials, as many as asked for and as there are to be; none where every combination was run."""
        begun = len(self._study.get_trials(deepcopy=False))
        until = min(begun + count, self._most) if len(self.known) < self._space.size else begun
        found: list[Trial] = []
        for number in range(begun, until):
            self._study.sampler = self._sampler(number)
            found.append(self._study.ask(dict(self._space.distributions)))
        return found

    def tell(self, trial: Trial, job: Job) -> None:
        """Tell what became of the run of a trial."""
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
        self.known[job.words] = job


def _sampler(settings: SearchSettings, space: Space) -> tuple[Callable[[int], BaseSampler], int]:
    """Return what makes the sampler of a trial by its number, and how many trials there will be.

    A sampler of its own for each trial remembers nothing that another process would not know.
    """
    from optuna import samplers

    seed = settings.seed
    if settings.sampler == "grid":
        grid: Any = space.grid()

        class Grid(samplers.GridSampler):
            def after_trial(self, *_: Any) -> None:
                """Stop nothing: that is counted here."""

        return lambda _: Grid(grid, seed=seed), int(min(settings.n_trials, space.size))
    if settings.sampler == "qmc":
        return lambda _: _even(seed), settings.n_trials
    made: Callable[[int], BaseSampler] = {
        "random": lambda number: samplers.RandomSampler(seed=_mixed(seed, number)),
        "tpe": lambda number: samplers.TPESampler(n_startup_trials=settings.startup, seed=_mixed(seed, number)),
    }[settings.sampler]
    return made, settings.n_trials


def _even(seed: int) -> BaseSampler:
    """Return the sampler that spreads trials evenly; which of its points is a trial's, it finds in the file."""
    from optuna import samplers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it may change in the future
        return samplers.QMCSampler(scramble=True, seed=seed, warn_asynchronous_seeding=False)


def _mixed(seed: int, number: int) -> int:
    """Return a seed for a trial; those of neighbouring seeds have nothing in common."""
    import numpy as np

    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _pruner(settings: SearchSettings) -> BasePruner:
    """Return the pruner; what it counts are evaluations, for steps of different batch sizes are no measure."""
    from optuna import pruners

    if settings.pruner == "median":
        return pruners.MedianPruner(n_startup_trials=settings.startup)
    if settings.pruner == "halving":
        return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    return pruners.NopPruner()


def _mend(path: Path, keys: int) -> None:
    """Take away what a process was killed in the middle of writing, so that it is written again, to the same bits.

    That is half a line, behind which nothing could be added, or a trial without some of its values, which is the last
    one and has nothing behind it.

    Args:
        path: of the file.
        keys: how many values a trial has.
    """
    from optuna.storages.journal._storage import JournalOperation  # what the lines of the file are

    if not path.is_file():
        return
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    begun, values, place = 0, keys, 0
    for line in whole.splitlines(keepends=True):
        kind = json.loads(line)["op_code"]
        if kind == JournalOperation.CREATE_TRIAL:
            begun, values = place, 0
        values += kind == JournalOperation.SET_TRIAL_PARAM
        place += len(line)
    end = place if values >= keys else begun
    if end < len(content):
        os.truncate(path, end)
