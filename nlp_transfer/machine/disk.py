"""Folders that are whole or absent, and disks that really hold what was written; it knows nothing of what that is."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nlp_transfer.errors import UserError

if TYPE_CHECKING:
    import numpy as np

LOCK = ".lock"  # a file that says by its lock that a process is at work in a folder


@contextmanager
def appearing(
    folder: Path, mark: str, what: str, *, refused: tuple[type[Exception], ...] = (OSError,)
) -> Iterator[Path]:
    """Give a folder to write in; it takes the name of `folder` when all of it is there, or nothing of it stays.

    What has that name before stays whole until then, and gets it back where the new one cannot have it; a process that
    is killed between the two leaves it aside, and the next one that writes there puts it back first.

    Args:
        folder: the name it will have.
        mark: a file that every such folder holds; an existing folder without it is not replaced.
        what: it holds, for messages.
        refused: what is raised where the disk does not take what is written.

    Raises:
        UserError: if the folder cannot be written, is being written by another process, or is something else, which
            would be replaced.
    """
    check_free(folder, mark, what)
    making, aside = (folder.with_name(f".{state}-{folder.name}") for state in ("making", "replaced"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with alone(making, str(folder)):
            _put_back(aside, folder)
            try:
                shutil.rmtree(making, ignore_errors=True)
                making.mkdir()
                yield making
                share(making)
                remove(aside)
                if folder.exists():
                    folder.rename(aside)
                making.rename(folder)
                remove(aside)
            finally:
                _put_back(aside, folder)
                shutil.rmtree(making, ignore_errors=True)
    except refused as error:
        raise UserError(f"the {what} cannot be saved in {folder}: {error}") from error


def _put_back(aside: Path, folder: Path) -> None:
    if aside.exists() and not folder.exists():
        aside.rename(folder)


@contextmanager
def alone(making: Path, name: str) -> Iterator[None]:
    """Keep other processes from what is being made for the time of the block; the lock of a dead one is none.

    Args:
        making: the name that it has until it is complete; the lock lies beside it.
        name: by which the user knows it.

    Raises:
        UserError: if another process is at it.
        OSError: if no lock can be written there.
    """
    from filelock import FileLock, Timeout

    path = making.with_name(f"{making.name}{LOCK}")
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{name} is being written by another process; wait for it, or name another") from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # as long as it is ours
        lock.release()


def check_free(folder: Path, mark: str, what: str) -> None:
    """Refuse a folder that `appearing` would not replace.

    Raises:
        UserError: if it is something else.
    """
    if folder.exists() and not (folder / mark).is_file():
        raise UserError(f"{folder} exists and is no saved {what}; nothing is written over it")


def remove(path: Path) -> None:
    """Take a folder away so that it is never half there under its own name, and what an earlier try left of it.

    Raises:
        OSError: if the folder cannot be renamed.
    """
    trash = path.with_name(f".trash-{path.name}")
    shutil.rmtree(trash, ignore_errors=True)
    if path.exists():
        path.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)


def flush(path: Path) -> None:
    """Make the disk hold what was written under a name.

    Raises:
        OSError: if it refuses.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Return the digest of a file, which may be larger than the memory.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, plain: Any) -> None:
    """Write plain values for people to read as well, where nobody looks before all is there; see `write_whole`.

    Raises:
        OSError: if the disk does not take it.
    """
    path.write_text(json.dumps(plain, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let a file be written that is whole or not there, also after the power failed.

    Args:
        path: its name; what has it already is replaced.
        write: is given the name to write under.

    Raises:
        OSError: if the disk does not take it.
    """
    making = path.with_name(f".making-{path.name}")
    try:
        write(making)
        flush(making)
        making.replace(path)
        flush(path.parent)
    finally:
        with suppress(OSError):
            making.unlink()


@contextmanager
def locked(folder: Path, waits: Callable[[], bool] = lambda: True) -> Iterator[bool]:
    """Keep other processes from a folder for the time of the block, if they ask in the same way.

    The folder may be renamed meanwhile. The lock of a process that has ended, however it did, is none.

    Args:
        folder: which.
        waits: is asked where another process has the lock; returns whether to wait for it.

    Yields:
        Whether the folder is locked: it is not where that was not waited for, nor where it is gone.

    Raises:
        OSError: if files cannot be locked here.
    """
    try:
        import fcntl
    except ImportError:
        raise OSError(errno.ENOSYS, "this system has no such locks") from None
    name = folder / LOCK
    try:
        file = name.open("a")
    except (FileNotFoundError, NotADirectoryError):
        yield False
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not waits():
                yield False
                return
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            is_there = os.path.samestat(os.fstat(file.fileno()), name.stat())
        except FileNotFoundError:
            is_there = False
        yield is_there


def scratch(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array in a temporary file without a name, which goes with it; in memory where the disk has no room."""
    import numpy as np

    try:
        with tempfile.TemporaryFile() as file:
            return _mapped(file, shape, dtype)
    except (AttributeError, OSError):
        return np.empty(shape, dtype)


def _mapped(file: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array that lies in a file, which is made as large as it.

    Raises:
        AttributeError: where the system cannot reserve room; a full disk would end the process where it writes.
        OSError: where there is none.
    """
    import numpy as np

    os.posix_fallocate(file.fileno(), 0, math.prod(shape) * dtype.itemsize)
    return np.asarray(np.memmap(file, dtype, "r+", shape=shape))


class Scratch:
    """Values one behind the other that grow: many in a temporary file without a name, which goes with them.

    They stay in memory where the disk has no room.

    Args:
        dtype: of the values.
        many: values from which they lie in a file.

    Attributes:
        values: all of them; what was taken from it before more came stays as it was.
    """

    def __init__(self, dtype: Any, *, many: int) -> None:
        import numpy as np

        self._room, self._file, self._many = np.empty(0, dtype), cast(Any, None), many
        self.values = self._room

    def append(self, more: np.ndarray) -> None:
        """Put values behind the others."""
        before, size = len(self.values), len(self.values) + len(more)
        if size > len(self._room):
            self._room = self._larger(size + size // 4)
        self.values = self._room[:size]
        self.values[before:] = more

    def _larger(self, size: int) -> np.ndarray:
        """Return room for so many values, in which those that there are lie already."""
        import numpy as np

        in_file = self._file is not None
        room = self._in_file(size) if in_file or size >= self._many else None
        if room is None:
            room, in_file = np.empty(size, self._room.dtype), False
        if not in_file:
            room[: len(self.values)] = self.values
        return room

    def _in_file(self, size: int) -> np.ndarray | None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - it grows
                weakref.finalize(self, self._file.close)
            return _mapped(self._file, (size,), self._room.dtype)
        except (AttributeError, OSError):
            self._file, self._many = None, sys.maxsize
            return None


def share(folder: Path) -> None:
    """Give every file below a folder the mode that the umask gives; safetensors shuts others out, whatever it says."""
    probe = folder / ".mode"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def room(folder: Path) -> str:
    """Return how much room there is where a folder lies, in brackets; nothing where that cannot be told."""
    try:
        return f" ({shutil.disk_usage(folder).free / 2**20:,.1f} MiB are free)"
    except OSError:
        return ""


def reason(error: Exception) -> str:
    """Return what the system says of an error in one line; libraries written in Rust say it in their own way."""
    return getattr(error, "strerror", None) or " ".join(str(error).split())
