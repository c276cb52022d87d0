"""Execute runs as tasks of the Ray cluster in RAY_ADDRESS, or of a local one if that is not set."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nlp_transfer.errors import UserError
from nlp_transfer.sweeping import remote
from nlp_transfer.sweeping.command import command_of, threads
from nlp_transfer.sweeping.settings import LauncherSettings


class RayExecutor:
    """Executes runs on a Ray cluster.

    Args:
        settings: of the launcher.

    Attributes:
        slots: maximum number of runs submitted at once; Ray queues them itself.

    Raises:
        UserError: if the cluster does not answer.
    """

    def __init__(self, settings: LauncherSettings) -> None:
        import ray

        self._settings, self.slots = settings, settings.jobs or sys.maxsize
        try:
            ray.init(ignore_reinit_error=True, log_to_driver=False, include_dashboard=False)
        except (ConnectionError, RuntimeError) as error:
            cause = " ".join(str(error).split())
            raise UserError(
                f"hydra.launcher.where=ray finds no cluster that it can use (RAY_ADDRESS): {cause}"
            ) from error
        resources = {"num_cpus": settings.cores, "num_gpus": settings.gpus}
        self._task = ray.remote(**resources, max_retries=0)(remote.run_command)

    def start(self, words: Sequence[str], log: Path | None) -> RayTask:
        """Submit a run to the cluster, which starts it when it has room."""
        assert log is not None
        command = command_of(words, self._settings)
        environment = threads(self._settings.processes_per_node, self._settings.cores)
        return RayTask(self._task.remote(command, str(Path.cwd()), str(log), environment))


class RayTask:
    """A run that was submitted to the cluster."""

    def __init__(self, reference: Any) -> None:
        self._reference, self._output = reference, ""

    def poll(self) -> int | None:
        """Return the exit status, or None while it waits or runs."""
        import ray

        ready, _ = ray.wait([self._reference], timeout=0)
        if not ready:
            return None
        try:
            status, self._output = ray.get(self._reference)
        except ray.exceptions.RayError:  # cancelled, or the node is gone
            return 1
        return status

    def end(self) -> None:
        """Interrupt the task, which then asks the run to end."""
        import ray

        ray.cancel(self._reference)

    def kill(self) -> None:
        """Kill it."""
        import ray

        ray.cancel(self._reference, force=True)

    def output(self) -> str:
        """Return the standard output of its first rank."""
        return self._output
