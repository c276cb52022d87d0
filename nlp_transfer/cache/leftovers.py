"""Temporary names in a store (staging folders, trash), and the removal of those left by killed processes."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from nlp_transfer.cache.entries import delete

_STAGING = re.compile(r"\.making-(\d+)-[0-9a-f]+")
_TRASH = ".trash-"
# Seconds without change after which a staging folder is removed: of a dead process, of any process.
_DEAD_AFTER, _ABANDONED_AFTER = 600.0, 86400.0


def staging_name() -> str:
    """Return a new name for a staging folder of this process."""
    return f".making-{os.getpid()}-{os.urandom(4).hex()}"


def trash_name() -> str:
    """Return a new name for an entry that is being deleted."""
    return f"{_TRASH}{os.urandom(8).hex()}"


def remove_abandoned(paths: Iterable[Path]) -> None:
    """Remove staging folders and trash that killed processes left behind."""
    for path in paths:
        staging = _STAGING.fullmatch(path.name)
        with contextlib.suppress(OSError):
            age = time.time() - path.stat().st_mtime
            # Process ids are valid on one machine only, but several machines may share the store: hence the age.
            is_abandoned = staging is not None and (
                age > _ABANDONED_AFTER or (age > _DEAD_AFTER and not _is_alive(int(staging[1])))
            )
            if is_abandoned or path.name.startswith(_TRASH):
                delete(path)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it exists and belongs to another user
        return True
    return True
