"""Checkpoints on disk: complete or absent, whenever the process dies and whatever the disk does.

A checkpoint is written under a temporary name, its files are hashed and flushed, and it is renamed; only then are older
ones deleted. This module knows files, but no model, optimizer or loop.
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
KEPT = 2  # the newest, and one to fall back on if that gets damaged
_MANIFEST = "manifest.json"
_STATE = "state.json"
_NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Snapshot:
    """The content of a checkpoint: all that a run needs to resume.

    Attributes:
        step: optimizer steps done.
        state: plain values.
        tensors: named tensors of each file, by the file's stem.
    """

    step: int
    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class LoadedCheckpoint:
    """An intact checkpoint.

    Attributes:
        path: its folder.
        snapshot: its content.
        damaged: why newer checkpoints were skipped, a sentence each.
    """

    path: Path
    snapshot: Snapshot
    damaged: list[str] = field(default_factory=list)


def commit(folder: Path, snapshot: Snapshot) -> Path:
    """Write a checkpoint into `folder`, then delete the oldest ones.

    Returns:
        The checkpoint's folder: `folder`/step-000123.

    Raises:
        UserError: if it cannot be written, with older checkpoints left unchanged, or if older ones cannot be deleted.
    """
    path = folder / f"step-{snapshot.step:06d}"
    temporary = folder / f".making-{path.name}"
    try:
        folder.mkdir(exist_ok=True)  # but not its parents: if those are gone, the run is
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        for stem, tensors in snapshot.tensors.items():
            plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            save_file(plain, temporary / f"{stem}.safetensors")
        write_json(temporary / _STATE, {"format": FORMAT, "step": snapshot.step, **snapshot.state})
        files = {file.name: sha256_of(file) for file in sorted(temporary.iterdir())}
        write_json(temporary / _MANIFEST, {"format": FORMAT, "sha256": files})
        share(temporary)
        for file in temporary.iterdir():
            flush(file)
        flush(temporary)
        remove(path)  # left by a run that was then resumed from an older checkpoint
        temporary.rename(path)
        flush(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(
            f"the checkpoint {path} cannot be written: {reason(error)}{room(folder)}; earlier checkpoints are "
            f"unchanged. {KEPT + 1} at a time take {(KEPT + 1) * _size(snapshot) / 2**20:,.1f} MiB: make room, or set "
            "output=..., and call the same command again"
        ) from error
    try:
        for old in _paths(folder)[KEPT:]:
            remove(old)
    except OSError as error:
        raise UserError(f"{path} was written, but an older checkpoint cannot be removed: {reason(error)}") from error
    return path


def newest(folder: Path) -> LoadedCheckpoint | None:
    """Return the newest intact checkpoint, or None if there are no checkpoints.

    Raises:
        UserError: if all checkpoints are damaged, or if the folder cannot be listed.
    """
    damaged: list[str] = []
    for path in _paths(folder):
        try:
            return LoadedCheckpoint(path, read(path), damaged)
        except UserError as error:
            damaged.append(str(error))
    if damaged:
        raise UserError(f"no checkpoint can be used: {'; '.join(damaged)}; resume=never starts from the beginning")
    return None


def read(path: Path) -> Snapshot:
    """Read a checkpoint and verify its hashes.

    Raises:
        UserError: naming the file that is missing, changed or damaged.
    """
    with _damage_named(path / _MANIFEST):
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        hashes = {str(name): str(digest) for name, digest in manifest["sha256"].items()}
    for name, digest in hashes.items():
        with _damage_named(path / name):
            if sha256_of(path / name) != digest:
                raise ValueError("its content is not what was written")
    with _damage_named(path / _STATE):
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
        if state.pop("format") != FORMAT:
            raise ValueError("it was written by another version")
        step = int(state.pop("step"))
    tensors = {}
    for name in hashes:
        if name != _STATE:
            with _damage_named(path / name):
                tensors[Path(name).stem] = load_file(path / name)
    return Snapshot(step=step, state=state, tensors=tensors)


def delete_after(folder: Path, step: int) -> None:
    """Delete the checkpoints of steps after the one that a run resumes from, damaged or abandoned."""
    for path in _paths(folder):
        if _step(path) > step:
            remove(path)


def remove_unfinished(folder: Path) -> None:
    """Delete what a killed process left unfinished; only the process that holds the folder's lock may do so."""
    for left in (*folder.glob(".making-*"), *folder.glob(".trash-*")):
        shutil.rmtree(left, ignore_errors=True)


def _paths(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest first; none if the folder does not exist.

    Raises:
        UserError: if the folder cannot be listed; the run must not silently start from scratch then.
    """
    try:
        entries = list(folder.iterdir())  # not glob, which treats an unreadable folder as empty
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"the checkpoints in {folder} cannot be listed: {reason(error)}") from error
    return sorted((path for path in entries if _NAME.fullmatch(path.name)), key=_step, reverse=True)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _size(snapshot: Snapshot) -> int:
    """Return the bytes of a snapshot's tensors, nearly the size of the checkpoint."""
    return sum(tensor.nbytes for tensors in snapshot.tensors.values() for tensor in tensors.values())


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise UserError(f"{path} is damaged ({reason(error)})") from error
