"""What the launcher said: this process's rank and how many there are, read from the environment without torch."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

_PATIENCE = 5.0  # seconds in which a launcher ends the others


def world_size() -> int:
    """Return the number of processes that run together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Return whether this process is the one that writes and speaks."""
    return rank() == 0


def rank() -> int:
    """Return this process's number among those that run together."""
    return int(os.environ.get("RANK", "0"))


def on_one_machine() -> bool:
    """Return whether all processes that run together are known to be on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) == world_size()


def is_restarted() -> bool:
    """Return whether the launcher started this process in the place of one that failed (--max_restarts)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def give_way() -> None:
    """Wait, with an error to tell, for the launcher to end this process because another one failed first.

    Where one of several processes fails, the launcher ends the others within a moment. An error that all of them meet,
    or that the end of one causes in the others, is then told by one. In a single process nothing is waited for.
    """
    if world_size() > 1:
        time.sleep(_PATIENCE)


def missing_processes() -> str | None:
    """Return a sentence if the launcher was asked for several processes and started one, else None.

    ``accelerate launch --cpu --num_processes 2`` does that without a word.
    """
    asked = _asked_of_parent()
    if asked is None or asked <= world_size():
        return None
    with_torch = f"torchrun --nproc-per-node {asked} -m nlp_transfer ..."
    with_accelerate = f"ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes {asked} ..."
    found = f"the launcher was asked for {asked} processes and started {world_size()}"
    return f"{found}: on CPUs use `{with_torch}` or `{with_accelerate}`"


def _asked_of_parent() -> int | None:
    """Return --num_processes of the `accelerate launch` that started this process, if one did."""
    words = _words_of_parent()
    if not any(word.endswith("accelerate") or "accelerate.commands" in word for word in words):
        return None
    for position, word in enumerate(words):
        name, _, value = word.partition("=")
        if name in ("--num_processes", "--num-processes"):
            number = value or (words[position + 1] if position + 1 < len(words) else "")
            return int(number) if number.isdigit() else None
    return None


def _words_of_parent() -> list[str]:
    """Return the command line of the process that started this one; only Linux tells."""
    if not sys.platform.startswith("linux"):
        return []
    try:
        return Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode().split("\0")
    except OSError:
        return []
