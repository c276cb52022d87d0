"""Versions of packages, and a digest of our own files, on which results may depend; imports none of them."""

from __future__ import annotations

import functools
import hashlib
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = (
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
    """Return the versions of the packages that are installed, by name."""
    return {name: version for name in names if (version := _version(name)) is not None}


@functools.cache  # called several times in a run, and each answer is read from a file and parsed
def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def environment() -> dict[str, Any]:
    """Return the versions on which results may depend."""
    versions = dict.fromkeys(_PACKAGES, "missing") | installed(_PACKAGES)
    return {"python": platform.python_version(), "system": platform.system(), "machine": platform.machine(), **versions}


@functools.cache
def digest_of_code() -> str:
    """Return a hash of our own files, for a checkout may change without a new version."""
    digest, root = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()
