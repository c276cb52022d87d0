"""What a store writes and deletes under other names than its entries', and what killed processes left of it."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from nlp_transfer.cache.entries import delete

_MAKING = re.compile(r"\.making-(\d+)-[0-9a-f]+")
_TRASH = ".trash-"
_SOON, _LATE = 600.0, 86400.0  # seconds after which what a dead process, and what any process left, is taken away


def making_name() -> str:
    """Return a new name for what this process makes."""
    return f".making-{os.getpid()}-{os.urandom(4).hex()}"


def trash_name() -> str:
    """Return a new name for what is being deleted."""
    return f"{_TRASH}{os.urandom(8).hex()}"


def sweep(paths: Iterable[Path]) -> None:
    """Take away what killed processes left unfinished."""
    for path in paths:
        making = _MAKING.fullmatch(path.name)
        with contextlib.suppress(OSError):
            age = time.time() - path.stat().st_mtime
            # A number of a process means something on one machine, and a folder may be shared by several.
            dead = making is not None and (age > _LATE or (age > _SOON and not _is_alive(int(making[1]))))
            if dead or path.name.startswith(_TRASH):
                delete(path)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it belongs to somebody else
        return True
    return True
