"""Runs as processes of this machine: each with its own GPUs and threads, none left when the sweep is gone."""

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


class Here:
    """The machine that the sweep is on.

    Attributes:
        slots: how many runs it takes at once.
    """

    def __init__(self, settings: LauncherSettings) -> None:
        self._settings = settings
        each = settings.of_a_run
        found = [] if (settings.jobs, each) == (1, 1) else devices()  # which nobody divides
        if found and len(found) < each * (settings.jobs or 1):
            raise UserError(
                f"hydra.launcher.jobs={settings.jobs or 1} of {each} processes each need {each * (settings.jobs or 1)} "
                f"GPUs, and there are {len(found)}"
            )
        self.slots = settings.jobs or max(1, len(found) // each)
        self._devices = [found[slot * each : (slot + 1) * each] for slot in range(self.slots)]
        self._free = list(range(self.slots))

    def start(self, words: Sequence[str], log: Path | None) -> Process:
        """Start a run.

        Args:
            words: of ``nlp-transfer adapt``.
            log: the file for what it says; None: it says it where the sweep does.
        """
        slot = self._free.pop(0)
        environment = os.environ | threads(self.slots * self._settings.of_a_run)
        if self.slots > 1 and self._devices[slot]:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self._devices[slot])
        command = command_of(words, self._settings)
        return Process(command, environment, log, done=lambda: self._free.append(slot))


class Process:
    """A run that goes on."""

    def __init__(
        self, command: Sequence[str], environment: dict[str, str], log: Path | None, *, done: Callable[[], None]
    ) -> None:
        self._done: Callable[[], None] | None = done
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # a pipe holds only so much
        said = None if log is None else log.open("ab")
        try:
            self._running = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=said,
                start_new_session=True,  # a terminal interrupts the sweep alone, which passes it on, once
                preexec_fn=end_with_parent,  # one call of the system, made ready before
            )
        finally:
            if said is not None:
                said.close()

    def poll(self) -> int | None:
        """Return the exit status, or None as long as it runs."""
        status = self._running.poll()
        if status is not None and self._done is not None:
            self._done()
            self._done = None
        return status

    def end(self) -> None:
        """Ask it to finish its step, commit it and end; torchrun's agent passes that on to all of its processes."""
        with suppress(ProcessLookupError):
            self._running.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and all of its processes at once."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._running.pid, signal.SIGKILL)
        self._running.wait()

    def output(self) -> str:
        """Return what it wrote to standard output."""
        self._output.seek(0)
        return self._output.read().decode(errors="replace")


def devices() -> list[str]:
    """Return the GPUs that runs may use, as ``CUDA_VISIBLE_DEVICES`` names them; found without torch."""
    if os.environ.get("ACCELERATE_USE_CPU", "").casefold() in ("1", "true", "yes"):
        return []
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [each.strip() for each in named.split(",") if each.strip() not in ("", "-1")]
    try:
        asked = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        told = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return []
    return told.stdout.split()


_LIBC = ctypes.CDLL(None) if sys.platform.startswith("linux") else None


def end_with_parent() -> None:
    """Have the system ask this process to end when the sweep is killed, or nobody would know of it (Linux)."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
