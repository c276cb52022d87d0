"""Files and folders that are written atomically and durably, locks, and arrays in temporary files."""

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

LOCK = ".lock"  # the file in a folder that is locked by the process working there


@contextmanager
def atomic_folder(
    folder: Path, mark: str, what: str, *, refused: tuple[type[Exception], ...] = (OSError,)
) -> Iterator[Path]:
    """Write a folder atomically: yield a temporary folder, which is renamed at the end, or deleted after an error.

    An existing folder of that name is kept until the new one is complete, and put back if that cannot be renamed. A
    process that is killed in between leaves the old folder aside, and the next one that writes there puts it back.

    Args:
        folder: the final name.
        mark: a file that every folder of this kind has; an existing folder without it is not replaced.
        what: the kind of folder, for messages.
        refused: the exceptions raised if the content cannot be written.

    Raises:
        UserError: if the folder cannot be written, is being written by another process, or exists and is not of this
            kind.
    """
    check_free(folder, mark, what)
    temporary, aside = (folder.with_name(f".{state}-{folder.name}") for state in ("making", "replaced"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(temporary, str(folder)):
            _put_back(aside, folder)
            try:
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir()
                yield temporary
                share(temporary)
                remove(aside)
                if folder.exists():
                    folder.rename(aside)
                temporary.rename(folder)
                remove(aside)
            finally:
                _put_back(aside, folder)
                shutil.rmtree(temporary, ignore_errors=True)
    except refused as error:
        raise UserError(f"the {what} cannot be saved in {folder}: {error}") from error


def _put_back(aside: Path, folder: Path) -> None:
    if aside.exists() and not folder.exists():
        aside.rename(folder)


@contextmanager
def exclusive(temporary: Path, name: str) -> Iterator[None]:
    """Lock a file or folder that is being written within the block; a process that dies releases its lock.

    Args:
        temporary: its temporary name, beside which the lock file is written.
        name: its final name, for messages.

    Raises:
        UserError: if another process holds the lock.
        OSError: if no lock file can be written.
    """
    from filelock import FileLock, Timeout

    path = temporary.with_name(f"{temporary.name}{LOCK}")
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{name} is being written by another process; wait for it, or name another") from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while the lock is held
        lock.release()


def check_free(folder: Path, mark: str, what: str) -> None:
    """Check that a folder does not exist or may be replaced by `atomic_folder`.

    Raises:
        UserError: if it is of another kind.
    """
    if folder.exists() and not (folder / mark).is_file():
        raise UserError(f"{folder} exists and is not a saved {what}; it is not overwritten")


def remove(path: Path) -> None:
    """Delete a folder, renaming it first so that it is never seen incomplete; finish an earlier deletion, too.

    Raises:
        OSError: if the folder cannot be renamed.
    """
    trash = path.with_name(f".trash-{path.name}")
    shutil.rmtree(trash, ignore_errors=True)
    if path.exists():
        path.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)


def flush(path: Path) -> None:
    """Flush a file or folder to the disk.

    Raises:
        OSError: if that fails.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, read in chunks.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, plain: Any) -> None:
    """Write plain values as indented JSON, not atomically; see `write_whole` for that.

    Raises:
        OSError: if the file cannot be written.
    """
    path.write_text(json.dumps(plain, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file atomically and durably, even if the power fails.

    Args:
        path: of the file; an existing one is replaced.
        write: writes the content to the temporary path that it is given.

    Raises:
        OSError: if the file cannot be written.
    """
    temporary = path.with_name(f".making-{path.name}")
    try:
        write(temporary)
        flush(temporary)
        temporary.replace(path)
        flush(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def locked(folder: Path, waits: Callable[[], bool] = lambda: True) -> Iterator[bool]:
    """Lock a folder within the block, against processes that use this function, too.

    The folder may be renamed meanwhile. A process that dies releases its lock.

    Args:
        folder: to lock.
        waits: called if another process holds the lock; returns whether to wait for it.

    Yields:
        Whether the folder is locked; False if `waits` returned False, or the folder does not exist.

    Raises:
        OSError: if files cannot be locked on this system.
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
    """Return an array in an unnamed temporary file, or in memory if the disk is full."""
    import numpy as np

    try:
        with tempfile.TemporaryFile() as file:
            return _mapped(file, shape, dtype)
    except (AttributeError, OSError):
        return np.empty(shape, dtype)


def _mapped(file: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array that is mapped to a file of its size.

    The space is reserved first, for writing to a full disk through a map would kill the process.

    Raises:
        AttributeError: if the system cannot reserve space.
        OSError: if there is no space.
    """
    import numpy as np

    os.posix_fallocate(file.fileno(), 0, math.prod(shape) * dtype.itemsize)
    return np.asarray(np.memmap(file, dtype, "r+", shape=shape))


class Scratch:
    """A one-dimensional array that grows, in an unnamed temporary file once it is large, unless the disk is full.

    Args:
        dtype: of the values.
        many: number of values from which on they are in a file.

    Attributes:
        values: all values; slices taken before it grew keep their content.
    """

    def __init__(self, dtype: Any, *, many: int) -> None:
        import numpy as np

        self._buffer, self._file, self._many = np.empty(0, dtype), cast(Any, None), many
        self.values = self._buffer

    def append(self, more: np.ndarray) -> None:
        """Append values."""
        before, size = len(self.values), len(self.values) + len(more)
        if size > len(self._buffer):
            self._buffer = self._larger(size + size // 4)
        self.values = self._buffer[:size]
        self.values[before:] = more

    def _larger(self, size: int) -> np.ndarray:
        """Return a buffer of some size that has the present values."""
        import numpy as np

        was_in_file = self._file is not None
        buffer = self._in_file(size) if was_in_file or size >= self._many else None
        if buffer is None:
            buffer, was_in_file = np.empty(size, self._buffer.dtype), False
        if not was_in_file:
            buffer[: len(self.values)] = self.values
        return buffer

    def _in_file(self, size: int) -> np.ndarray | None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - it grows
                weakref.finalize(self, self._file.close)
            return _mapped(self._file, (size,), self._buffer.dtype)
        except (AttributeError, OSError):
            self._file, self._many = None, sys.maxsize
            return None


def share(folder: Path) -> None:
    """Give all files below a folder the mode of the umask, which safetensors ignores."""
    probe = folder / ".mode"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def room(folder: Path) -> str:
    """Return the free space on the disk of a folder in brackets, or "" if unknown."""
    try:
        return f" ({shutil.disk_usage(folder).free / 2**20:,.1f} MiB are free)"
    except OSError:
        return ""


def reason(error: Exception) -> str:
    """Return the reason of an error in one line; errors of Rust libraries have no `strerror`."""
    return getattr(error, "strerror", None) or " ".join(str(error).split())
