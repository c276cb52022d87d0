"""The most memory that this process took since it was last asked to forget; where the system does not say, None."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import torch

_FORGET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")  # of Linux


def forget_peak() -> None:
    """Start anew: the peak is what is taken now."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    with suppress(OSError):
        _FORGET.write_text("5", encoding="ascii")  # VmHWM, see proc_pid_clear_refs(5)


def peak_megabytes() -> float | None:
    """Return the peak in 10⁶ bytes: of the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    with suppress(OSError):
        found = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
        return int(found[1]) * 1024 / 1e6 if found else None
    return None
