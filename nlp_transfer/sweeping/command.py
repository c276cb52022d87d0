"""The command that starts a run: as one process, with torchrun, or with `accelerate launch` and a config file."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from nlp_transfer.data.paths import expanded
from nlp_transfer.sweeping.settings import LauncherSettings


def command_of(words: Sequence[str], settings: LauncherSettings, *rendezvous: str) -> list[str]:
    """Return the command that starts a run.

    Args:
        words: the words of ``nlp-transfer adapt``.
        settings: of the launcher.
        rendezvous: rendezvous options of torchrun for several nodes; none for a single node.
    """
    run = ["-m", "nlp_transfer", "adapt", *words]
    if settings.config_file is not None:
        file = str(expanded(settings.config_file))
        # Port 0 selects a free port, because several runs may start on this machine.
        options = ["--config_file", file, "--main_process_port", "0"]
        return [sys.executable, "-m", "accelerate.commands.launch", *options, *run]
    if settings.processes == 1 and not rendezvous:
        return [sys.executable, *run]
    options = [*(rendezvous or ["--standalone"]), "--nproc-per-node", str(settings.processes)]
    return [sys.executable, "-m", "torch.distributed.run", *options, *run]


def threads(processes: int, cores: int | None = None) -> dict[str, str]:
    """Return environment variables that divide the cores among processes, unless the user has set them.

    Args:
        processes: the number of processes that share the cores.
        cores: the number of cores; None: those of this machine.
    """
    if processes == 1 or "OMP_NUM_THREADS" in os.environ:
        return {}
    if cores is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": str(max(1, cores // processes))}
