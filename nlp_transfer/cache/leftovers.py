"""Temporary names in a store (staging folders, trash), and the removal of those left by killed processes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from nlp_transfer.cache.entries import delete

_STAGING = re.compile(r"\.making-(?:(?P<machine>[0-9a-f]{8})-(?P<start>\d+)-)?(?P<process>\d+)-[0-9a-f]+")
_TRASH = ".trash-"
_ABANDONED_AFTER = 86400.0  # seconds without change after which a staging folder of any process is removed


def staging_name() -> str:
    """Return a new name for a staging folder of this process."""
    process = os.getpid()
    return f".making-{_machine()}-{_start_of(process)}-{process}-{os.urandom(4).hex()}"


def trash_name() -> str:
    """Return a new name for an entry that is being deleted."""
    return f"{_TRASH}{os.urandom(8).hex()}"


def remove_abandoned(paths: Iterable[Path]) -> None:
    """Remove staging folders and trash that killed processes left behind."""
    for path in paths:
        staging = _STAGING.fullmatch(path.name)
        with contextlib.suppress(OSError):
            if path.name.startswith(_TRASH) or (staging and _is_abandoned(path, staging)):
                delete(path)


def _is_abandoned(path: Path, staging: re.Match[str]) -> bool:
    """Return whether nobody writes to a staging folder any more.

    Several machines may share a store, and each knows its own processes only: those of others are judged by the time
    since the last change.
    """
    if staging["machine"] == _machine():
        process, start = int(staging["process"]), int(staging["start"])
        if not _exists(process):
            return True
        if start and (now := _start_of(process)):  # if not known, it may be another process with the same id
            return now != start
    return time.time() - path.stat().st_mtime > _ABANDONED_AFTER


@cache
def _machine() -> str:
    """Return eight hex digits for what process ids are valid in: a start of a machine, or a container of it."""
    valid = [socket.gethostname()]
    with contextlib.suppress(OSError):  # Linux only
        valid.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        valid.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(valid).encode()).hexdigest()[:8]


def _start_of(process: int) -> int:
    """Return when a process was started, in clock ticks, which tells it from a later one with its id; 0: unknown."""
    try:
        status = Path(f"/proc/{process}/stat").read_bytes()
    except OSError:
        return 0
    return int(status.rpartition(b")")[2].split()[19])  # field 22; the name before it may contain anything


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it exists and belongs to another user
        return True
    return True
