"""The rank of this process and the number of ranks, read from the launcher's environment variables without torch."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

_PATIENCE = 5.0  # seconds within which a launcher ends the other processes after a failure


def world_size() -> int:
    """Return the number of ranks."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Return whether this is the first rank, which writes files and messages."""
    return rank() == 0


def rank() -> int:
    """Return the rank of this process."""
    return int(os.environ.get("RANK", "0"))


def on_one_machine() -> bool:
    """Return whether all ranks are known to be on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) == world_size()


def is_restarted() -> bool:
    """Return whether the launcher restarted this process after a failure (--max_restarts)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def wait_to_be_ended() -> None:
    """Before reporting an error, wait for the launcher to end this process because another one failed first.

    When a rank fails, the launcher soon ends the others. An error that occurs on all ranks, or follows from the end of
    one, is then reported only once. In a single process there is no wait.
    """
    if world_size() > 1:
        time.sleep(_PATIENCE)


def missing_processes() -> str | None:
    """Return a sentence if the launcher was asked for several processes and started one, else None.

    ``accelerate launch --cpu --num_processes 2`` silently does that.
    """
    requested = _requested_processes()
    if requested is None or requested <= world_size():
        return None
    with_torch = f"torchrun --nproc-per-node {requested} -m nlp_transfer ..."
    with_accelerate = f"ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes {requested} ..."
    problem = f"the launcher was asked for {requested} processes and started {world_size()}"
    return f"{problem}: on CPUs use `{with_torch}` or `{with_accelerate}`"


def _requested_processes() -> int | None:
    """Return --num_processes of the `accelerate launch` that started this process, if one did."""
    words = _parent_command()
    if not any(word.endswith("accelerate") or "accelerate.commands" in word for word in words):
        return None
    for position, word in enumerate(words):
        name, _, value = word.partition("=")
        if name in ("--num_processes", "--num-processes"):
            number = value or (words[position + 1] if position + 1 < len(words) else "")
            return int(number) if number.isdigit() else None
    return None


def _parent_command() -> list[str]:
    """Return the command line of the parent process; on Linux only, else empty."""
    if not sys.platform.startswith("linux"):
        return []
    try:
        return Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode().split("\0")
    except OSError:
        return []
