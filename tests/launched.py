"""The command line in several processes, started as a launcher starts them, or by torchrun itself."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.crash_harness import free_port
from tests.warm import CLI, ROOT, Process, Warm

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def launched(processes: int, words: list[str]) -> subprocess.CompletedProcess[str]:
    command = [*TORCHRUN, str(processes), "-m", "nlp_transfer", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def ranks(
    running: Warm, words: list[str], processes: int = 2, *, folders: Sequence[Path] = (), own: Sequence[list[str]] = ()
) -> list[Process]:
    """Start processes as a launcher would, each with an exit status of its own.

    Args:
        running: starts them.
        words: of all of them.
        processes: how many.
        folders: where each of them works; none: where all do.
        own: words of each of them beside those.
    """
    group = {"ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    group |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
    started = []
    for n in range(processes):
        environment = os.environ | group | {"RANK": str(n), "LOCAL_RANK": str(n)}
        more, folder = own[n] if own else [], folders[n] if folders else ROOT
        started.append(running.start(CLI, *words, *more, cwd=folder, env=environment))
    return started


def printed_by(running: Warm, words: list[str], *, processes: int) -> str:
    """Return what the first of some processes prints that all end well."""
    both = ranks(running, words, processes)
    statuses, said = ended(both)
    assert statuses == [0] * processes, said
    return both[0].said("out")


def ended(running: list[Process], *, within: float = 300) -> tuple[list[int], list[str]]:
    """Wait for processes; return their exit statuses and what they said."""
    try:
        said = [process.communicate(timeout=within)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    return [process.wait() for process in running], said
