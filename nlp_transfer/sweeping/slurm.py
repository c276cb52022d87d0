"""Execute runs as jobs of a SLURM cluster, through submitit, which exchanges files in the folder of the sweep."""

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

_PORTS = 29500, 1000  # for the rendezvous of the nodes of a job: the first port, and the number of ports


class SlurmExecutor:
    """Executes runs on a SLURM cluster.

    Args:
        settings: of the launcher.
        folder: for the files of submitit.
        cluster: the executor's name in submitit.

    Attributes:
        slots: maximum number of runs submitted at once; SLURM queues them itself.

    Raises:
        UserError: if SLURM is not available, or for parameters that submitit rejects.
    """

    def __init__(self, settings: LauncherSettings, folder: Path, *, cluster: str = "slurm") -> None:
        import submitit

        self._settings, self.slots = settings, settings.jobs or sys.maxsize
        try:
            self._executor = submitit.AutoExecutor(folder, cluster=cluster)
            self._executor.update_parameters(
                name="nlp-transfer",
                nodes=settings.nodes,
                tasks_per_node=1,  # torchrun, which starts the processes
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

    def start(self, words: Sequence[str], log: Path | None) -> SlurmJob | RejectedJob:
        """Submit a run to the cluster, which starts it when it has room; a rejected run counts as failed."""
        import submitit

        assert log is not None
        try:
            environment = threads(self._settings.processes_per_node, self._settings.cores)
            job = self._executor.submit(run, words, self._settings, str(Path.cwd()), str(log), environment)
            return SlurmJob(job)
        except submitit.core.utils.FailedJobError as error:  # for example, over a limit of jobs
            return RejectedJob(" ".join(str(error).split()), log)


class SlurmJob:
    """A run that was submitted to the cluster."""

    def __init__(self, job: Any) -> None:
        self._job, self._output = job, ""

    def poll(self) -> int | None:
        """Return the exit status, or None while it waits or runs."""
        if not self._job.done():
            return None
        try:
            results = self._job.results()
        except Exception:  # of submitit: cancelled, timed out, or the node has failed
            return 1
        self._output = "".join(output for _, output in results)  # only that of the first rank is not empty
        return max((status for status, _ in results), key=abs)

    def end(self) -> None:
        """Cancel the job: SLURM sends SIGTERM to all of its processes, and SIGKILL 30 seconds later."""
        self._job.cancel(check=False)

    kill = end

    def output(self) -> str:
        """Return the standard output of its first rank."""
        return self._output


class RejectedJob:
    """A run that the cluster rejected.

    Args:
        cause: the message of sbatch.
        log: the file for the messages of the run.
    """

    def __init__(self, cause: str, log: Path) -> None:
        with log.open("a", encoding="utf-8") as messages:
            messages.write(
                f"nlp-transfer: SLURM rejected it: {cause}; hydra.launcher.jobs limits how many are submitted at once\n"
            )

    def poll(self) -> int:
        """Return the exit status."""
        return UserError.status

    def end(self) -> None:
        """Do nothing: it has not started."""

    kill = end

    def output(self) -> str:
        """Return nothing."""
        return ""


def run(
    words: Sequence[str], settings: LauncherSettings, folder: str, log: str, environment: Mapping[str, str]
) -> tuple[int, str]:
    """Execute a run on the node that the cluster has chosen; it writes a checkpoint before its time limit."""
    import submitit

    options = rendezvous(settings.nodes) if settings.nodes > 1 else []
    warning = signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"]  # sent 90 seconds before the time limit
    return remote.run_command(command_of(words, settings, *options), folder, log, environment, warning=warning)


def rendezvous(nodes: int) -> list[str]:
    """Return the rendezvous options of torchrun, the same on all nodes of this job."""
    import submitit

    job = submitit.JobEnvironment()
    first, count = _PORTS
    port = first + int("".join(filter(str.isdigit, job.job_id)) or 0) % count
    options = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{job.hostnames[0]}:{port}", "--rdzv-id", job.job_id]
    return ["--nnodes", str(nodes), *options]
