"""A full disk that fails only when a file is flushed."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from nlp_transfer.machine import disk


def refuse_to_hold(patch: pytest.MonkeyPatch, name: str) -> None:
    """Refuse every flush of a file of that name, also while it has another one."""
    flush = disk.flush

    def full(path: Path) -> None:
        if path.name.endswith(name):
            raise OSError(errno.ENOSPC, "the disk is full")
        flush(path)

    patch.setattr(disk, "flush", full)
