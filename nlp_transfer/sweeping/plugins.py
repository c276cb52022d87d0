"""Our parts of Hydra, and the launcher among them: it starts the runs that a sweeper asks for, a launch for each."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from nlp_transfer.data.paths import expanded
from nlp_transfer.sweeping.places import place_of
from nlp_transfer.sweeping.search import OptunaSweeper
from nlp_transfer.sweeping.settings import LauncherSettings, of_hydra
from nlp_transfer.sweeping.sweep import Sweep, sweep_of


def register() -> None:
    """Make Hydra know our parts; conf/hydra holds their keys.

    Hydra takes parts from ``hydra_plugins`` alone. They are put there in this process, for a package of that name on
    the disk would be run by every program in the environment that uses Hydra.
    """
    known = Plugins.instance()
    try:
        package = importlib.import_module("hydra_plugins")
    except ImportError:  # nobody else has any
        package = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
        package.__path__ = []
    ours = ModuleType("hydra_plugins.nlp_transfer")
    sys.modules[ours.__name__] = package.nlp_transfer = ours  # type: ignore[attr-defined]
    for part in (AccelerateLauncher, OptunaSweeper):
        setattr(ours, part.__name__, part)
        known.register(part)
    OmegaConf.register_new_resolver("expanded", lambda name: str(expanded(name)), replace=True)


class AccelerateLauncher(Launcher):
    """``hydra/launcher=accelerate``: several runs at once, of several processes each."""

    __module__ = "hydra_plugins.nlp_transfer"  # see `register`

    def __init__(self, **keys: Any) -> None:
        self._keys = keys
        self._sweep: Sweep

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take the keys, which are checked here, and the sweep that it is a part of."""
        settings = of_hydra(LauncherSettings, self._keys)
        self._sweep = sweep_of(task_function)
        self._sweep.begin(config)
        self._place = place_of(settings, self._sweep.folder)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Do runs; the figure of one that failed is nan, so that no sweeper gives up the others for it."""
        runs = [tuple(filter_overrides(overrides)) for overrides in job_overrides]
        returns = []
        for words, job in zip(runs, self._sweep.work(runs, self._place), strict=True):
            done = JobReturn(overrides=words, status=JobStatus.COMPLETED)
            done.return_value = job.value
            returns.append(done)
        return returns
