"""How an entry of the store lies on the disk: a folder with arrays or files, and what is known of them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from nlp_transfer.machine.disk import flush, sha256_of, write_json
from nlp_transfer.secrets import redacted

FORMAT = 1
VALUES, ENTRY = "values.npy", "entry.json"
_SIGN_OF_LIFE = 60.0  # seconds between two that a folder gets in which values are being written


@dataclass(frozen=True)
class Entry:
    """What is known of an entry without reading its values.

    Attributes:
        key: its name.
        bytes: that it takes on the disk.
        used: when it was last made or found, in seconds since the epoch.
        about: what `keep` wrote down; empty where that cannot be read.
    """

    key: str
    bytes: int
    used: float
    about: dict[str, Any]


class Unfinished:
    """A matrix that is being written, row by row and maybe by several processes, where nobody finds it yet.

    Rows do not pass through a mapping, for what was written there would count as memory of the process.
    """

    def __init__(self, folder: Path) -> None:
        """Open what `create` has made.

        Raises:
            OSError, ValueError: if that is not there.
        """
        self.folder = folder
        self._shape, self._dtype, self._start = _header(folder / VALUES)
        self._file = (folder / VALUES).open("r+b", buffering=0)
        self._alive = time.monotonic()

    @classmethod
    def create(cls, folder: Path, shape: tuple[int, ...], dtype: np.dtype) -> Unfinished:
        """Take the room that a matrix needs.

        Raises:
            OSError: if the disk does not have it.
        """
        np.lib.format.open_memmap(folder / VALUES, mode="w+", dtype=dtype, shape=shape)
        found = cls(folder)
        with contextlib.suppress(AttributeError):  # where the system has no such call
            os.posix_fallocate(found._file.fileno(), 0, os.fstat(found._file.fileno()).st_size)
        return found

    def put(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Write some rows, int64 (rows,), whose values are (rows, width).

        Raises:
            OSError: if the disk does not take them.
        """
        assert values.shape[1:] == self._shape[1:]
        for row, own in zip(rows.tolist(), values.astype(self._dtype), strict=True):
            if os.pwrite(self._file.fileno(), own.data, self._start + row * own.nbytes) != own.nbytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if time.monotonic() - self._alive > _SIGN_OF_LIFE:
            self._alive = time.monotonic()
            with contextlib.suppress(FileNotFoundError):  # somebody removed it; the file stays until it is closed
                os.utime(self.folder)

    def values(self) -> np.ndarray:
        """Return what was written, mapped and read-only, wherever the file is by now: somebody may have removed it."""
        return np.asarray(np.memmap(self._file, self._dtype, "r", self._start, self._shape))

    def close(self) -> None:
        """Write no more."""
        self._file.close()


def _header(path: Path) -> tuple[tuple[int, ...], np.dtype, int]:
    """Return shape and dtype of a file of NumPy's, and where its values begin."""
    found = np.lib.format.open_memmap(path, mode="r")
    return found.shape, found.dtype, found.offset


def read(path: Path) -> np.ndarray:
    """Return the values of an entry.

    Raises:
        ValueError: they are not what was written.
        OSError: they cannot be read.
    """
    _check(path, sha256_of(path / VALUES))
    return mapped(path)


def checked(path: Path) -> Path:
    """Return the folder of an entry whose files are what was written.

    Raises:
        ValueError, OSError: as `read`.
    """
    _check(path, _digest_of_files(path))
    return path


def _check(path: Path, digest: str) -> None:
    about = _about(path)
    if (about.get("format"), about.get("key"), about.get("sha256")) != (FORMAT, path.name, digest):
        raise ValueError(f"{path} is damaged")


def _digest_of_files(folder: Path) -> str:
    """Return a digest of all files of an entry but the one that says so."""
    lines = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / ENTRY):
        lines.append(f"{path.relative_to(folder).as_posix()} {sha256_of(path)}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def mapped(path: Path) -> np.ndarray:
    """Return the values of an entry, mapped from the disk and read-only, whatever they are."""
    return np.asarray(np.lib.format.open_memmap(path / VALUES, mode="r"))  # of plain arrays alone: it has no pickle


def _about(path: Path) -> dict[str, Any]:
    try:
        about = json.loads((path / ENTRY).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(str(error)) from None
    if not isinstance(about, dict):
        raise ValueError(f"{path / ENTRY} holds no object")
    return about


def write(making: Path, key: str, values: np.ndarray, about: dict[str, Any]) -> None:
    """Write an entry into a folder of its own."""
    with (making / VALUES).open("wb") as file:
        np.save(file, np.ascontiguousarray(values), allow_pickle=False)
    seal(making, key, values, about)


def seal(making: Path, key: str, values: np.ndarray, about: dict[str, Any]) -> None:
    """Say what the values of an entry are that were written, so that the disk really holds them.

    Of many both halves take minutes, in which other machines see by its age that the folder is not given up.
    """
    os.utime(making)
    flush(making / VALUES)
    os.utime(making)
    digest = sha256_of(making / VALUES)
    _write_entry(
        making,
        key,
        about | {"dtype": str(values.dtype), "shape": list(values.shape), "bytes": values.nbytes, "sha256": digest},
    )


def copy(making: Path, key: str, folder: Path, about: dict[str, Any]) -> None:
    """Write an entry of files, as `write` one of values."""
    shutil.copytree(folder, making, dirs_exist_ok=True)
    for path in making.rglob("*"):
        flush(path)
    complete(making, key, about)


def announce(making: Path, key: str, about: dict[str, Any]) -> None:
    """Say what the entry will be whose files are being written."""
    _write_entry(making, key, about | {"what": f"{about.get('what')} (unfinished)"})


def complete(making: Path, key: str, about: dict[str, Any]) -> None:
    """Say what the entry is whose files were written, so that the disk really holds them."""
    _write_entry(making, key, about | {"bytes": sum(sizes(making)), "sha256": _digest_of_files(making)})


def _write_entry(making: Path, key: str, about: dict[str, Any]) -> None:
    entry = {name: redacted(value) if isinstance(value, str) else value for name, value in about.items()}
    entry |= {"created": datetime.now(UTC).isoformat(timespec="seconds"), "key": key, "format": FORMAT}
    write_json(making / ENTRY, entry)
    for path in (making / ENTRY, making):
        flush(path)


def takes_place(making: Path, path: Path) -> bool:
    """Give an entry its name; return whether it got it, and not the same one of a process that was faster."""
    try:
        making.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def described(path: Path) -> Entry:
    """Return what is known of an entry.

    Raises:
        FileNotFoundError: if it is not there.
    """
    marked = path / ENTRY if (path / ENTRY).is_file() else path
    used = marked.stat().st_mtime
    try:
        about = _about(path)
    except (OSError, ValueError):
        about = {}
    return Entry(path.name, sum(sizes(path)), used, about)


def sizes(path: Path) -> Iterator[int]:
    """Yield the bytes of every file in a folder, or of the file."""
    for file in path.rglob("*") if path.is_dir() else (path,):
        if file.is_symlink() or not file.is_dir():
            yield file.lstat().st_size


def delete(path: Path) -> None:
    """Take a folder or a file away."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
