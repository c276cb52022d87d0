"""Runs as tasks of a Ray cluster, or of this machine where none is named in RAY_ADDRESS."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nlp_transfer.errors import UserError
from nlp_transfer.sweeping import remote
from nlp_transfer.sweeping.command import command_of, threads
from nlp_transfer.sweeping.settings import LauncherSettings


class Ray:
    """A cluster.

    Args:
        settings: of the launcher.

    Attributes:
        slots: how many runs are handed to it at once; it has a queue of its own.

    Raises:
        UserError: for a cluster that does not answer.
    """

    def __init__(self, settings: LauncherSettings) -> None:
        import ray

        self._settings, self.slots = settings, settings.jobs or sys.maxsize
        try:
            ray.init(ignore_reinit_error=True, log_to_driver=False, include_dashboard=False)
        except (ConnectionError, RuntimeError) as error:
            why = " ".join(str(error).split())
            raise UserError(
                f"hydra.launcher.where=ray finds no cluster that it can use (RAY_ADDRESS): {why}"
            ) from error
        of_a_run = {"num_cpus": settings.cores, "num_gpus": settings.gpus}
        self._task = ray.remote(**of_a_run, max_retries=0)(remote.do)

    def start(self, words: Sequence[str], log: Path | None) -> Task:
        """Hand a run to the cluster, which starts it when it has room."""
        assert log is not None
        command, environment = command_of(words, self._settings), threads(self._settings.of_a_run, self._settings.cores)
        return Task(self._task.remote(command, str(Path.cwd()), str(log), environment))


class Task:
    """A run that the cluster has."""

    def __init__(self, reference: Any) -> None:
        self._reference, self._output = reference, ""

    def poll(self) -> int | None:
        """Return the exit status, or None as long as it waits or runs."""
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
        """Interrupt it: what waits for the run there asks it to end."""
        import ray

        ray.cancel(self._reference)

    def kill(self) -> None:
        """End it at once."""
        import ray

        ray.cancel(self._reference, force=True)

    def output(self) -> str:
        """Return what its first rank wrote to standard output."""
        return self._output
