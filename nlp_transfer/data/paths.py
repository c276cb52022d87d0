"""File and folder names as users write them; nothing is opened here."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(name: str | Path) -> Path:
    """Return a path with `~` and `~user` expanded; any other name that starts with a tilde is itself."""
    return Path(os.path.expanduser(name))  # noqa: PTH111  # pathlib's own raises for a file called ~draft.csv


def means_folder(name: str) -> bool:
    """Return whether a name can only mean a folder, not a repository on the Hub."""
    return name.startswith((".", "/", "~", "runs/")) or name.endswith("/")
