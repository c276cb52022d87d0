"""Peak memory of this process since the last reset; None where the system does not tell."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import torch

_FORGET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")  # of Linux


def forget_peak() -> None:
    """Reset the peak to the memory in use now."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    with suppress(OSError):
        _FORGET.write_text("5", encoding="ascii")  # VmHWM, see proc_pid_clear_refs(5)


def peak_megabytes() -> float | None:
    """Return the peak in 10⁶ bytes: of GPU memory if there is a GPU, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    with suppress(OSError):
        found = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
        return int(found[1]) * 1024 / 1e6 if found else None
    return None
