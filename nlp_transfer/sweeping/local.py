"""Execute runs as processes on this machine, each with its own GPUs and threads, that end with the sweep."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from nlp_transfer.errors import UserError
from nlp_transfer.sweeping.command import command_of, threads
from nlp_transfer.sweeping.settings import LauncherSettings

_PR_SET_PDEATHSIG = 1  # of prctl(2)


class LocalExecutor:
    """Executes runs on the machine of the sweep.

    Attributes:
        slots: maximum number of runs at once.

    Raises:
        UserError: for more runs at once than there are GPUs for.
    """

    def __init__(self, settings: LauncherSettings) -> None:
        self._settings = settings
        processes = settings.processes_per_node
        gpus = [] if (settings.jobs, processes) == (1, 1) else visible_gpus()  # a single process may use all
        if gpus and len(gpus) < processes * (settings.jobs or 1):
            raise UserError(
                f"hydra.launcher.jobs={settings.jobs or 1} of {processes} processes each need "
                f"{processes * (settings.jobs or 1)} GPUs, and there are {len(gpus)}"
            )
        self.slots = settings.jobs or max(1, len(gpus) // processes)
        self._gpus = [gpus[slot * processes : (slot + 1) * processes] for slot in range(self.slots)]
        self._free = list(range(self.slots))

    def start(self, words: Sequence[str], log: Path | None) -> Process:
        """Start a run.

        Args:
            words: the words of ``nlp-transfer adapt``.
            log: the file for its messages; None: they go to the standard error of the sweep.
        """
        slot = self._free.pop(0)
        environment = os.environ | threads(self.slots * self._settings.processes_per_node)
        if self.slots > 1 and self._gpus[slot]:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self._gpus[slot])
        command = command_of(words, self._settings)
        return Process(command, environment, log, on_end=lambda: self._free.append(slot))


class Process:
    """A run in a process of its own."""

    def __init__(
        self, command: Sequence[str], environment: dict[str, str], log: Path | None, *, on_end: Callable[[], None]
    ) -> None:
        self._on_end: Callable[[], None] | None = on_end
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # a pipe could fill up and block the run
        messages = None if log is None else log.open("ab")
        try:
            self._running = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=messages,
                start_new_session=True,  # Ctrl-C reaches only the sweep, which passes it on once
                preexec_fn=end_with_parent,  # safe after a fork: a single system call
            )
        finally:
            if messages is not None:
                messages.close()

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        status = self._running.poll()
        if status is not None and self._on_end is not None:
            self._on_end()
            self._on_end = None
        return status

    def end(self) -> None:
        """Ask it to finish its step, write a checkpoint and end; torchrun passes the signal on to all its processes."""
        with suppress(ProcessLookupError):
            self._running.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it with all of its processes."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._running.pid, signal.SIGKILL)
        self._running.wait()

    def output(self) -> str:
        """Return its standard output."""
        self._output.seek(0)
        return self._output.read().decode(errors="replace")


def visible_gpus() -> list[str]:
    """Return the GPUs that runs may use, in the notation of ``CUDA_VISIBLE_DEVICES``, without importing torch."""
    if os.environ.get("ACCELERATE_USE_CPU", "").casefold() in ("1", "true", "yes"):
        return []
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [each.strip() for each in named.split(",") if each.strip() not in ("", "-1")]
    try:
        query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        result = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return []
    return result.stdout.split()


_LIBC = ctypes.CDLL(None) if sys.platform.startswith("linux") else None


def end_with_parent() -> None:
    """Have the kernel send SIGTERM to this process when the sweep is killed (Linux)."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
