"""What figures depend on: the machine, the versions of packages, and the code that was measured."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from nlp_transfer.machine.versions import installed

PACKAGES = (
    *("torch", "transformers", "accelerate", "peft", "datasets", "tokenizers", "scikit-learn"),
    *("sentence-transformers", "setfit", "onnxruntime", "openvino", "nncf"),
)
FLAGS = ("amx_tile", "amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx512f", "avx2")
HERE = Path(__file__).parent


@cache
def processor() -> str:
    """Return the processor's name and those of FLAGS that it has."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    facts = {name.strip(): value.strip() for name, mark, value in (line.partition(":") for line in lines) if mark}
    has = set(facts.get("flags", "").split())
    return " ".join([facts.get("model name", platform.processor()), *(flag for flag in FLAGS if flag in has)])


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed PACKAGES."""
    return {"python": platform.python_version(), **installed(PACKAGES)}


def heading() -> str:
    """Return a line with the date, the processor and the versions, to be printed above tables."""
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"{time.strftime('%Y-%m-%d')}: {processor()}; {packages}"


@cache
def code(module: str) -> str:
    """Return a digest of the code that a job of a module runs: the module, shared modules, and our package."""
    shared = [HERE / f"{name}.py" for name in (module, "stopwatch", "texts", "encoders")]
    ours = package("nlp_transfer").rglob("*.py") if module in ("ours", "start", "steps") else ()
    return _digest([*shared, *ours])


@cache
def package(name: str) -> Path:
    """Return the folder of an installed package without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SystemExit(f'{name} is not installed: pip install -e ".[offline]"')
    return Path(spec.origin).parent


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
