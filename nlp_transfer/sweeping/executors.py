"""Select the executor of runs; the library of a cluster is imported only if it is selected."""

from __future__ import annotations

from pathlib import Path

from nlp_transfer.sweeping.execution import Executor
from nlp_transfer.sweeping.local import LocalExecutor
from nlp_transfer.sweeping.settings import LauncherSettings


def executor_of(settings: LauncherSettings, folder: Path) -> Executor:
    """Return the executor for ``hydra.launcher.where``.

    Args:
        settings: of the launcher.
        folder: of the sweep, where a cluster keeps its files.

    Raises:
        UserError: if it is not available, or has too few GPUs.
    """
    if settings.where == "slurm":
        from nlp_transfer.sweeping.slurm import SlurmExecutor

        return SlurmExecutor(settings, folder / "slurm")
    if settings.where == "ray":
        from nlp_transfer.sweeping.on_ray import RayExecutor

        return RayExecutor(settings)
    return LocalExecutor(settings)
