"""The format of a store entry on disk: a folder with an array or files, and their metadata in ``entry.json``."""

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
_HEARTBEAT = 60.0  # seconds between updates of the modification time of a folder that is being written


@dataclass(frozen=True)
class Entry:
    """The metadata of an entry.

    Attributes:
        key: its name.
        bytes: its size on disk.
        used: when it was last written or found, in seconds since the epoch.
        about: contents of ``entry.json``; empty if that cannot be read.
    """

    key: str
    bytes: int
    used: float
    about: dict[str, Any]


class MatrixWriter:
    """Writes a matrix row by row, possibly from several processes, in a staging folder.

    Rows are not written through a memory map, because its dirty pages would count as memory of the process.
    """

    def __init__(self, folder: Path) -> None:
        """Open a matrix that `create` has allocated.

        Raises:
            OSError, ValueError: if there is none.
        """
        self.folder = folder
        self._shape, self._dtype, self._start = _header(folder / VALUES)
        self._file = (folder / VALUES).open("r+b", buffering=0)
        self._alive = time.monotonic()

    @classmethod
    def create(cls, folder: Path, shape: tuple[int, ...], dtype: np.dtype) -> MatrixWriter:
        """Allocate a matrix.

        Raises:
            OSError: if the disk lacks the space.
        """
        np.lib.format.open_memmap(folder / VALUES, mode="w+", dtype=dtype, shape=shape)
        writer = cls(folder)
        with contextlib.suppress(AttributeError):  # not available on every system
            os.posix_fallocate(writer._file.fileno(), 0, os.fstat(writer._file.fileno()).st_size)
        return writer

    def put(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Write values, (rows, width), to the rows with these indices, int64 (rows,).

        Raises:
            OSError: if they cannot be written.
        """
        assert values.shape[1:] == self._shape[1:]
        for row, row_values in zip(rows.tolist(), values.astype(self._dtype), strict=True):
            start = self._start + row * row_values.nbytes
            if os.pwrite(self._file.fileno(), row_values.data, start) != row_values.nbytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if time.monotonic() - self._alive > _HEARTBEAT:
            self._alive = time.monotonic()
            with contextlib.suppress(FileNotFoundError):  # the folder was removed; the open file still works
                os.utime(self.folder)

    def values(self) -> np.ndarray:
        """Return the matrix, memory-mapped and read-only; works even if the file was moved or removed meanwhile."""
        return np.asarray(np.memmap(self._file, self._dtype, "r", self._start, self._shape))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _header(path: Path) -> tuple[tuple[int, ...], np.dtype, int]:
    """Return the shape and dtype of a .npy file, and the offset of its values."""
    values = np.lib.format.open_memmap(path, mode="r")
    return values.shape, values.dtype, values.offset


def read(path: Path) -> np.ndarray:
    """Return the array of an entry after verifying its checksum.

    Raises:
        ValueError: the entry is damaged.
        OSError: it cannot be read.
    """
    _check(path, sha256_of(path / VALUES))
    return memory_mapped(path)


def verified_folder(path: Path) -> Path:
    """Return the folder of an entry after verifying the checksum of its files.

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
    """Return a digest of all files of an entry except ``entry.json``, which contains the digest."""
    lines = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / ENTRY):
        lines.append(f"{path.relative_to(folder).as_posix()} {sha256_of(path)}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def memory_mapped(path: Path) -> np.ndarray:
    """Return the array of an entry, memory-mapped and read-only, without verification."""
    return np.asarray(np.lib.format.open_memmap(path / VALUES, mode="r"))  # never unpickles: it maps plain arrays only


def _about(path: Path) -> dict[str, Any]:
    try:
        about = json.loads((path / ENTRY).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(str(error)) from None
    if not isinstance(about, dict):
        raise ValueError(f"{path / ENTRY} holds no object")
    return about


def write(staging: Path, key: str, values: np.ndarray, about: dict[str, Any]) -> None:
    """Write an entry with an array into its staging folder."""
    with (staging / VALUES).open("wb") as file:
        np.save(file, np.ascontiguousarray(values), allow_pickle=False)
    seal(staging, key, values, about)


def seal(staging: Path, key: str, values: np.ndarray, about: dict[str, Any]) -> None:
    """Flush an array to disk and write the metadata of its entry.

    Flushing and hashing a large array take minutes each. The modification time of the folder is updated in between, so
    that other machines do not take it for abandoned.
    """
    os.utime(staging)
    flush(staging / VALUES)
    os.utime(staging)
    digest = sha256_of(staging / VALUES)
    _write_entry(
        staging,
        key,
        about | {"dtype": str(values.dtype), "shape": list(values.shape), "bytes": values.nbytes, "sha256": digest},
    )


def copy(staging: Path, key: str, folder: Path, about: dict[str, Any]) -> None:
    """Copy a folder into a staging folder as an entry of files."""
    shutil.copytree(folder, staging, dirs_exist_ok=True)
    for path in staging.rglob("*"):
        flush(path)
    complete(staging, key, about)


def write_partial_entry(staging: Path, key: str, about: dict[str, Any]) -> None:
    """Write the metadata of an entry whose files are not complete."""
    _write_entry(staging, key, about | {"what": f"{about.get('what')} (unfinished)"})


def complete(staging: Path, key: str, about: dict[str, Any]) -> None:
    """Write the metadata of an entry whose files are complete."""
    _write_entry(staging, key, about | {"bytes": sum(sizes(staging)), "sha256": _digest_of_files(staging)})


def _write_entry(staging: Path, key: str, about: dict[str, Any]) -> None:
    entry = {name: redacted(value) if isinstance(value, str) else value for name, value in about.items()}
    entry |= {"created": datetime.now(UTC).isoformat(timespec="seconds"), "key": key, "format": FORMAT}
    write_json(staging / ENTRY, entry)
    for path in (staging / ENTRY, staging):
        flush(path)


def publish(staging: Path, path: Path) -> bool:
    """Rename a staging folder to its entry; return False if another process has published the entry already."""
    try:
        staging.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def describe(path: Path) -> Entry:
    """Return the metadata of an entry.

    Raises:
        FileNotFoundError: if it does not exist.
    """
    touched = path / ENTRY if (path / ENTRY).is_file() else path
    used = touched.stat().st_mtime
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
    """Delete a folder or a file."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
