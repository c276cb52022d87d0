"""Runs as jobs of a SLURM cluster, through submitit, which hands call and result over in the sweep's own folder."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nlp_transfer.errors import UserError
from nlp_transfer.sweeping import remote
from nlp_transfer.sweeping.command import command_of, threads
from nlp_transfer.sweeping.settings import LauncherSettings

_PORTS = 29500, 1000  # at which the nodes of a job meet: the first one, and how many there are


class Slurm:
    """A cluster.

    Args:
        settings: of the launcher.
        folder: for submitit.
        cluster: its name of the executor.

    Attributes:
        slots: how many runs are handed to it at once; it has a queue of its own.
    """

    def __init__(self, settings: LauncherSettings, folder: Path, *, cluster: str = "slurm") -> None:
        import submitit

        self._settings, self.slots = settings, settings.jobs or sys.maxsize
        try:
            self._executor = submitit.AutoExecutor(folder, cluster=cluster)
            self._executor.update_parameters(
                name="nlp-transfer",
                nodes=settings.nodes,
                tasks_per_node=1,  # torchrun's agent, which starts the others
                cpus_per_task=settings.cores,
                gpus_per_node=settings.gpus,
                timeout_min=settings.minutes,
                slurm_partition=settings.partition,
                slurm_additional_parameters=dict(settings.slurm),
            )
        except (RuntimeError, ValueError, TypeError, NameError) as error:
            raise UserError(
                f"hydra.launcher.where=slurm cannot be used here: {' '.join(str(error).split())}"
            ) from error

    def start(self, words: Sequence[str], log: Path | None) -> Submitted | Refused:
        """Hand a run to the cluster, which starts it when it has room; one that it does not take has failed."""
        import submitit

        assert log is not None
        try:
            at = str(Path.cwd()), str(log), threads(self._settings.of_a_run, self._settings.cores)
            return Submitted(self._executor.submit(run, words, self._settings, *at))
        except submitit.core.utils.FailedJobError as error:  # over a limit of jobs, say
            return Refused(" ".join(str(error).split()), log)


class Submitted:
    """A run that the cluster has."""

    def __init__(self, job: Any) -> None:
        self._job, self._output = job, ""

    def poll(self) -> int | None:
        """Return the exit status, or None as long as it waits or runs."""
        if not self._job.done():
            return None
        try:
            results = self._job.results()
        except Exception:  # of submitit: cancelled, out of time, the node is gone
            return 1
        self._output = "".join(output for _, output in results)  # the first rank's alone is not empty
        return max((status for status, _ in results), key=abs)

    def end(self) -> None:
        """Have the cluster ask it to end: all of its processes are sent SIGTERM, and 30 seconds later SIGKILL."""
        self._job.cancel(check=False)

    kill = end

    def output(self) -> str:
        """Return what its first rank wrote to standard output."""
        return self._output


class Refused:
    """A run that the cluster has not taken.

    Args:
        why: as sbatch says it.
        log: the file for what the run would say.
    """

    def __init__(self, why: str, log: Path) -> None:
        with log.open("a", encoding="utf-8") as said:
            said.write(
                f"nlp-transfer: SLURM did not take it: {why}; hydra.launcher.jobs limits how many it is handed\n"
            )

    def poll(self) -> int:
        """Return the exit status."""
        return UserError.status

    def end(self) -> None:
        """Do nothing: it has ended."""

    kill = end

    def output(self) -> str:
        """Return nothing."""
        return ""


def run(
    words: Sequence[str], settings: LauncherSettings, folder: str, log: str, environment: Mapping[str, str]
) -> tuple[int, str]:
    """Do a run, on the node that the cluster has chosen; before its time is up it is asked to end, and commits."""
    import submitit

    met = rendezvous(settings.nodes) if settings.nodes > 1 else []
    warning = signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"]  # SLURM sends it a minute and a half before
    return remote.do(command_of(words, settings, *met), folder, log, environment, warning=warning)


def rendezvous(nodes: int) -> list[str]:
    """Return the options by which torchrun's agents on all nodes of this job meet."""
    import submitit

    here = submitit.JobEnvironment()
    first, count = _PORTS
    port = first + int("".join(filter(str.isdigit, here.job_id)) or 0) % count
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{here.hostnames[0]}:{port}", "--rdzv-id", here.job_id]
    return ["--nnodes", str(nodes), *meeting]
