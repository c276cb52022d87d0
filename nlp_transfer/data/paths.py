"""File and folder names as users write them; nothing is opened here."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path


def expanded(name: str | Path) -> Path:
    """Return a path with `~` and `~user` expanded; any other name that starts with a tilde is itself."""
    return Path(os.path.expanduser(name))  # noqa: PTH111  # pathlib's own raises for a file called ~draft.csv


def means_folder(name: str) -> bool:
    """Return whether a name can only mean a folder, not a repository on the Hub."""
    return name.startswith((".", "/", "~", "runs/")) or name.endswith("/")


def not_a_name(name: str) -> str:
    """Say why a text that the system cannot encode, or with a NUL byte, is not the name of a file, and what to do."""
    if re.search("[\0\ud800-\udc7f\udd00-\udfff]", name):
        return f"{name!r} cannot be the name of a file"
    encoding = sys.getfilesystemencoding()  # Python turns bytes that it cannot decode into the other surrogates
    remedy = "rename it" if encoding == "utf-8" else "set the environment variable PYTHONUTF8=1"
    try:
        written = name.encode(encoding, "surrogateescape").decode(errors="replace")
    except UnicodeEncodeError:  # from a file, which has another encoding
        return f"{name!r} has characters that the encoding of this process ({encoding}) lacks; {remedy}"
    return f"{written!r} holds bytes that are not text in the encoding of this process ({encoding}); {remedy}"
