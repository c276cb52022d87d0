"""Names of files and folders as people write them; nothing is opened here."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(name: str | Path) -> Path:
    """Return a path with `~` and `~user` expanded; any other name that starts with a tilde is itself."""
    return Path(os.path.expanduser(name))  # noqa: PTH111  # pathlib's own raises for a file called ~draft.csv


def means_folder(name: str) -> bool:
    """Return whether a name that may also be one of the Hub is written as only that of a folder is."""
    return name.startswith((".", "/", "~", "runs/")) or name.endswith("/")
