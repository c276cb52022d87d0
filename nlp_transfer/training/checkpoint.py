"""Checkpoints on disk: whole or absent, whenever the process dies and whatever the disk does.

A checkpoint is built under another name, its files are hashed and flushed, and one rename makes it one; only then are
older ones taken away. It knows files; it knows no model, no optimizer and no loop.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nlp_transfer.errors import UserError
from nlp_transfer.machine.disk import flush, reason, remove, room, sha256_of, share, write_json

FORMAT = 2
KEPT = 2  # the newest, and one to fall back on should a disk spoil it
_MANIFEST = "manifest.json"
_STATE = "state.json"
_NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Snapshot:
    """What a run needs to go on.

    Attributes:
        step: optimizer steps done.
        state: plain values.
        tensors: named tensors of each file, by the file's stem.
    """

    step: int
    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Found:
    """A checkpoint that is whole: the newest one, or one that was named.

    Attributes:
        path: where it lies.
        snapshot: what it holds.
        damaged: why newer ones were passed over, a sentence each.
    """

    path: Path
    snapshot: Snapshot
    damaged: list[str] = field(default_factory=list)


def commit(folder: Path, snapshot: Snapshot) -> Path:
    """Write a checkpoint into `folder`, then take the oldest ones away.

    Returns:
        Where it lies: `folder`/step-000123.

    Raises:
        UserError: if it cannot be written, where older checkpoints are as they were, or if these cannot be taken away.
    """
    path = folder / f"step-{snapshot.step:06d}"
    making = folder / f".making-{path.name}"
    try:
        folder.mkdir(exist_ok=True)  # not the folder above it: where that is gone, the run is
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir()
        for stem, tensors in snapshot.tensors.items():
            plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            save_file(plain, making / f"{stem}.safetensors")
        write_json(making / _STATE, {"format": FORMAT, "step": snapshot.step, **snapshot.state})
        files = {file.name: sha256_of(file) for file in sorted(making.iterdir())}
        write_json(making / _MANIFEST, {"format": FORMAT, "sha256": files})
        share(making)
        for file in making.iterdir():
            flush(file)
        flush(making)
        remove(path)  # of a run that went on from an older one
        making.rename(path)
        flush(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(making, ignore_errors=True)
        raise UserError(
            f"the checkpoint {path} cannot be written: {reason(error)}{room(folder)}; the earlier ones are as they "
            f"were. {KEPT + 1} at a time take {(KEPT + 1) * _size(snapshot) / 2**20:,.1f} MiB: make room, or set "
            "output=..., and call the same command again"
        ) from error
    try:
        for old in _paths(folder)[KEPT:]:
            remove(old)
    except OSError as error:
        raise UserError(f"{path} was written, but what it replaces cannot be taken away: {reason(error)}") from error
    return path


def newest(folder: Path) -> Found | None:
    """Return the newest whole checkpoint, or None where there is not one of any kind.

    Raises:
        UserError: if there are checkpoints and all of them are damaged, or if the folder cannot be looked into.
    """
    damaged: list[str] = []
    for path in _paths(folder):
        try:
            return Found(path, read(path), damaged)
        except UserError as error:
            damaged.append(str(error))
    if damaged:
        raise UserError(f"no checkpoint can be used: {'; '.join(damaged)}; resume=never starts again from nothing")
    return None


def read(path: Path) -> Snapshot:
    """Return what a checkpoint holds.

    Raises:
        UserError: naming the file that is missing, changed or damaged.
    """
    with _damage_named(path / _MANIFEST):
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        wanted = {str(name): str(digest) for name, digest in manifest["sha256"].items()}
    for name, digest in wanted.items():
        with _damage_named(path / name):
            if sha256_of(path / name) != digest:
                raise ValueError("its content is not what was written")
    with _damage_named(path / _STATE):
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
        if state.pop("format") != FORMAT:
            raise ValueError("it was written by another version")
        step = int(state.pop("step"))
    tensors = {}
    for name in wanted:
        if name != _STATE:
            with _damage_named(path / name):
                tensors[Path(name).stem] = load_file(path / name)
    return Snapshot(step=step, state=state, tensors=tensors)


def forget_after(folder: Path, step: int) -> None:
    """Take away the checkpoints of later steps than the one a run goes on from: damaged, or of a course given up."""
    for path in _paths(folder):
        if _step(path) > step:
            remove(path)


def sweep(folder: Path) -> None:
    """Take away what a killed process left unfinished. Only the process that holds the folder's lock may."""
    for left in (*folder.glob(".making-*"), *folder.glob(".trash-*")):
        shutil.rmtree(left, ignore_errors=True)


def _paths(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest first; none where there is no such folder.

    Raises:
        UserError: if the folder cannot be looked into: a run that has checkpoints must not start again for that.
    """
    try:
        inside = list(folder.iterdir())  # not glob, to which a folder that is closed to us is an empty one
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"the checkpoints in {folder} cannot be listed: {reason(error)}") from error
    return sorted((path for path in inside if _NAME.fullmatch(path.name)), key=_step, reverse=True)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _size(snapshot: Snapshot) -> int:
    """Return the bytes of a snapshot's tensors, which are nearly all of a checkpoint."""
    return sum(tensor.nbytes for tensors in snapshot.tensors.values() for tensor in tensors.values())


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise UserError(f"{path} is damaged ({reason(error)})") from error
