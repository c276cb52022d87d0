"""Our Hydra plugins: their registration, and the launcher, which starts the runs that a sweeper proposes."""

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
from nlp_transfer.sweeping.executors import executor_of
from nlp_transfer.sweeping.search import OptunaSweeper
from nlp_transfer.sweeping.settings import LauncherSettings, of_hydra
from nlp_transfer.sweeping.sweep import Sweep, sweep_of


def register() -> None:
    """Register our plugins with Hydra; their keys are in conf/hydra.

    Hydra accepts plugins only from the package ``hydra_plugins``. We create ours in memory, because every program in
    the environment that uses Hydra would import an installed package of that name.
    """
    plugins = Plugins.instance()
    try:
        package = importlib.import_module("hydra_plugins")
    except ImportError:  # no other plugins are installed
        package = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
        package.__path__ = []
    module = ModuleType("hydra_plugins.nlp_transfer")
    sys.modules[module.__name__] = package.nlp_transfer = module  # type: ignore[attr-defined]
    for plugin in (AccelerateLauncher, OptunaSweeper):
        setattr(module, plugin.__name__, plugin)
        plugins.register(plugin)
    OmegaConf.register_new_resolver("expanded", lambda name: str(expanded(name)), replace=True)


class AccelerateLauncher(Launcher):
    """``hydra/launcher=accelerate``: several runs at once, of several processes each."""

    __module__ = "hydra_plugins.nlp_transfer"  # see `register`

    def __init__(self, **keys: Any) -> None:
        self._keys = keys
        self._sweep: Sweep

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Check the keys and connect to the sweep."""
        settings = of_hydra(LauncherSettings, self._keys)
        self._sweep = sweep_of(task_function)
        self._sweep.begin(config)
        self._executor = executor_of(settings, self._sweep.folder)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Execute runs; a failed run returns nan, so that the sweeper continues with the others."""
        runs = [tuple(filter_overrides(overrides)) for overrides in job_overrides]
        results = []
        for words, job in zip(runs, self._sweep.run(runs, self._executor), strict=True):
            result = JobReturn(overrides=words, status=JobStatus.COMPLETED)
            result.return_value = job.value
            results.append(result)
        return results
