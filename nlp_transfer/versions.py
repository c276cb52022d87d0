"""Which versions there are of what a figure may depend on; read from what is installed, nothing is imported."""

from __future__ import annotations

import platform
from importlib import metadata
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


def environment() -> dict[str, Any]:
    """Return the versions that a figure may depend on."""
    versions = {}
    for name in _VERSIONS_OF:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "missing"
    return {"python": platform.python_version(), "system": platform.system(), "machine": platform.machine(), **versions}
