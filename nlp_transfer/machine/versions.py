"""Which code there is of what a figure may depend on: versions and our own files, of which nothing is imported."""

from __future__ import annotations

import functools
import hashlib
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

_VERSIONS_OF = (
    "nlp-transfer",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "datasets",
    "tokenizers",
    "numpy",
    "scikit-learn",
)


def installed(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of packages by name; of those that are not there, none."""
    return {name: version for name in names if (version := _version(name)) is not None}


@functools.cache  # asked several times a run, and each answer is read from a file and parsed
def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def environment() -> dict[str, Any]:
    """Return the versions that a figure may depend on."""
    versions = dict.fromkeys(_VERSIONS_OF, "missing") | installed(_VERSIONS_OF)
    return {"python": platform.python_version(), "system": platform.system(), "machine": platform.machine(), **versions}


@functools.cache
def digest_of_code() -> str:
    """Return a hash of our own files: a checkout changes without its version."""
    own, root = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        own.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return own.hexdigest()
