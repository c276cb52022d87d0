"""The command of a run: one process, several under torchrun's agent, or what a file of `accelerate config` says."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from nlp_transfer.data.paths import expanded
from nlp_transfer.sweeping.settings import LauncherSettings


def command_of(words: Sequence[str], settings: LauncherSettings, *rendezvous: str) -> list[str]:
    """Return the command.

    Args:
        words: of ``nlp-transfer adapt``.
        settings: of the launcher.
        rendezvous: options of torchrun by which several nodes meet; none: there is one.
    """
    run = ["-m", "nlp_transfer", "adapt", *words]
    if settings.config_file is not None:
        file = str(expanded(settings.config_file))
        # Port 0 is any that is free: several runs start on this machine.
        options = ["--config_file", file, "--main_process_port", "0"]
        return [sys.executable, "-m", "accelerate.commands.launch", *options, *run]
    if settings.processes == 1 and not rendezvous:
        return [sys.executable, *run]
    options = [*(rendezvous or ["--standalone"]), "--nproc-per-node", str(settings.processes)]
    return [sys.executable, "-m", "torch.distributed.run", *options, *run]


def threads(processes: int, cores: int | None = None) -> dict[str, str]:
    """Return what gives each of so many processes its part of the cores, unless the user has said.

    Args:
        processes: that share them.
        cores: how many; None: those of this machine.
    """
    if processes == 1 or "OMP_NUM_THREADS" in os.environ:
        return {}
    if cores is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": str(max(1, cores // processes))}
