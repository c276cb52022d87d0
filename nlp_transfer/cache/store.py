"""A persistent store of arrays and folders by key, with a size budget and least-recently-used eviction.

An entry is a folder ``<key>/`` (see ``entries``), complete or absent: it is written to a staging folder and renamed.
Failures of the store never fail a run: entries that cannot be read are computed again, entries that cannot be written
are not kept, with one warning. Several processes may share one store.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from nlp_transfer.cache.entries import (
    ENTRY,
    Entry,
    MatrixWriter,
    complete,
    copy,
    delete,
    describe,
    memory_mapped,
    publish,
    read,
    seal,
    sizes,
    verified_folder,
    write,
    write_partial_entry,
)
from nlp_transfer.cache.leftovers import remove_abandoned, staging_name, trash_name
from nlp_transfer.data.paths import expanded
from nlp_transfer.machine.disk import LOCK, flush, locked, reason
from nlp_transfer.settings import CacheSettings

ENVIRONMENT = "NLP_TRANSFER_CACHE"
PARTIAL_SUFFIX = ".part"  # of the folder of an entry that `build_folder` has not completed
_Found = TypeVar("_Found")
_KEY = re.compile(rf"[0-9a-f]{{64}}({re.escape(PARTIAL_SUFFIX)})?")
_MOST_OF_FREE = 0.5  # of the free disk space that an entry may take, because the run has more to write


def folder_of(named: str | None) -> Path | None:
    """Return the folder of the store; None if none is named and the user has no home folder.

    Args:
        named: ``cache.folder``; None: the environment variable NLP_TRANSFER_CACHE, else the user's cache folder.
    """
    if given := named or os.environ.get(ENVIRONMENT):
        return expanded(given)
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    base = base if base.is_absolute() else expanded("~/.cache")  # the XDG specification ignores relative paths
    return base / "nlp_transfer" if base.is_absolute() else None


def store_of(settings: CacheSettings, tell: Callable[[str], None] = lambda _: None) -> Store | None:
    """Return the store; None if it is switched off, or, with a warning, if there is no folder for it."""
    store = store_of_rows(settings, tell)
    if settings.gib and store is None:
        tell("there is no home folder for the cache; set cache.folder=..., or cache.gib=0")
    return store


def store_of_rows(settings: CacheSettings, tell: Callable[[str], None] = lambda _: None) -> Store | None:
    """Return the store without the warning of `store_of`: reading rows without a store raises an error of its own."""
    folder = folder_of(settings.folder) if settings.gib else None
    return None if folder is None else Store(folder, settings.gib * 2**30, tell)


class Store:
    """Arrays and folders by key in one folder.

    Args:
        folder: of the entries; created when the first one is written.
        budget: maximum bytes of all entries; the least recently used are evicted first, but none that is being written.
        tell: called once, with the reason why an entry could not be written or read.
    """

    def __init__(self, folder: Path, budget: float, tell: Callable[[str], None] = lambda _: None) -> None:
        self.folder, self.budget = folder, budget
        self._tell, self._has_warned = tell, False

    def find(self, key: str) -> np.ndarray | None:
        """Return the array of a key, memory-mapped and read-only, or None; a damaged entry is removed."""
        return self._find(key, read)

    def find_folder(self, key: str) -> Path | None:
        """Return the folder of a key, or None; a damaged entry is removed."""
        return self._find(key, verified_folder)

    def peek(self, key: str) -> np.ndarray | None:
        """Return the array of a key or None, as `find`, but without changing the store."""
        try:
            return read(self.folder / key)
        except (ValueError, OSError):
            return None

    def keep(self, key: str, values: np.ndarray, about: dict[str, Any]) -> np.ndarray:
        """Store an array; return it memory-mapped, or as it was if it could not be stored.

        Args:
            key: a digest of everything that determines the values.
            values: of any dtype that NumPy writes without pickle; bfloat16 as uint16, which `about` should say.
            about: plain metadata for users; secrets in it are redacted.
        """
        if not values.size:
            return values
        if self._store(key, values.nbytes, lambda staging: write(staging, key, values, about)):
            with contextlib.suppress(FileNotFoundError):  # evicted by another process
                return memory_mapped(self.folder / key)
        return values

    def keep_folder(self, key: str, folder: Path, about: dict[str, Any]) -> Path | None:
        """Store a copy of a folder; return the stored folder, or None if it could not be stored.

        Args:
            key: a digest of everything that determines the files.
            folder: to copy.
            about: as for `keep`.
        """
        is_stored = self._store(key, sum(sizes(folder)), lambda staging: copy(staging, key, folder, about))
        return self.folder / key if is_stored or (self.folder / key / ENTRY).is_file() else None

    def build_folder(self, key: str, about: dict[str, Any], build: Callable[[Path], None]) -> Path:
        """Return the folder of a key; if it does not exist, build it, resuming where an earlier process stopped.

        Until it is complete, the entry has another name (`PARTIAL_SUFFIX`) and survives interruptions, unless nothing
        was written yet. If another process is building it, say so and wait.

        Args:
            key: a digest of everything that determines the files.
            about: as for `keep`.
            build: writes missing files atomically into the folder it is given, and calls `enforce_budget` after each.

        Raises:
            OSError: if files cannot be written, or an unreadable entry cannot be removed.
        """
        place, partial = self.folder / key, self.folder / f"{key}{PARTIAL_SUFFIX}"

        def announce_waiting() -> bool:
            self._tell(f"another process is writing {about.get('what')}; this one waits for it")
            return True

        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while (found := self.find_folder(key)) is None:
            partial.mkdir(exist_ok=True)
            with locked(partial, announce_waiting) as is_ours:
                if not is_ours:
                    continue
                if (found := self.find_folder(key)) is not None:  # another process has completed it meanwhile
                    delete(partial)
                    break
                try:
                    if os.path.lexists(place):
                        with contextlib.suppress(FileNotFoundError):  # evicted by another process
                            self.remove(key)
                    if not (partial / ENTRY).is_file():
                        write_partial_entry(partial, key, about)
                    build(partial)
                except BaseException:
                    if {path.name for path in partial.glob("*")} <= {ENTRY, LOCK}:
                        delete(partial)
                    raise
                complete(partial, key, about)
                publish(partial, place)
                flush(self.folder)
        return found

    def enforce_budget(self, partial: Path) -> None:
        """Mark a partial entry as in use, and evict others to make room for it.

        Raises:
            OSError: if it exceeds the budget by itself, or was removed.
        """
        os.utime(partial / ENTRY)
        if sum(sizes(partial)) > self.budget:
            most = f"the {self.budget / 2**30:g} GiB that cache.gib allows"
            raise OSError(errno.EDQUOT, f"it is more than {most}")
        self._make_room(0)

    def entries(self) -> list[Entry]:
        """Return all entries, least recently used first.

        Raises:
            OSError: if the folder exists and cannot be listed.
        """
        entries = []
        for path in self._paths():
            if _KEY.fullmatch(path.name):
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    entries.append(describe(path))
        return sorted(entries, key=lambda entry: (entry.used, entry.key))

    def remove(self, key: str) -> None:
        """Remove an entry atomically: it is renamed before its files are deleted.

        Raises:
            OSError: if that is not possible.
        """
        trash = self.folder / trash_name()
        (self.folder / key).rename(trash)
        delete(trash)

    def _find(self, key: str, read: Callable[[Path], _Found]) -> _Found | None:
        path = self.folder / key
        try:
            found = read(path)
        except (ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError):
            if os.path.lexists(path):  # Path.exists follows links
                with contextlib.suppress(OSError):
                    self.remove(key)
            return None
        except OSError as error:
            self._warn(f"what was computed before cannot be read from {path}: {reason(error)}")
            return None
        with contextlib.suppress(OSError):  # the store may be read-only
            os.utime(path / ENTRY)
        return found

    def begin(self, shape: tuple[int, ...], dtype: np.dtype) -> MatrixWriter | None:
        """Allocate a matrix to be written row by row; None if it cannot be stored.

        The writer must be passed to `finish` or `discard` in the end.
        """
        size = math.prod(shape) * dtype.itemsize
        staging = self._new_staging(size) if size else None
        if staging is None:
            return None
        try:
            return MatrixWriter.create(staging, shape, dtype)
        except OSError as error:
            self._warn_of(error)
            shutil.rmtree(staging, ignore_errors=True)
            return None

    def finish(self, key: str, writer: MatrixWriter, about: dict[str, Any]) -> None:
        """Store a matrix whose rows have all been written; see `keep`."""
        self._write_and_publish(key, writer.folder, lambda staging: seal(staging, key, writer.values(), about))
        writer.close()

    def discard(self, writer: MatrixWriter, error: OSError | None = None) -> None:
        """Delete a matrix that was not completed; warn if an error was the reason."""
        writer.close()
        shutil.rmtree(writer.folder, ignore_errors=True)
        if error is not None:
            self._warn_of(error)

    def _store(self, key: str, size: int, write: Callable[[Path], None]) -> bool:
        """Write an entry of `size` bytes; return whether it was stored, with a warning if it cannot be."""
        staging = self._new_staging(size)
        return staging is not None and self._write_and_publish(key, staging, write)

    def _new_staging(self, size: int) -> Path | None:
        """Return a new staging folder for an entry of `size` bytes, or None with a warning."""
        mib = f"{size / 2**20:,.1f} MiB"
        if size > self.budget:
            self._warn(f"{mib} are not cached for later runs: more than cache.gib allows")
            return None
        staging = self.folder / staging_name()
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # private, as entries reveal texts
            remove_abandoned(self._paths())
            self._make_room(size)
            if size > _MOST_OF_FREE * shutil.disk_usage(self.folder).free:
                self._warn(f"{mib} are not cached for later runs: {self.folder} is nearly full")
                return None
            staging.mkdir()
        except OSError as error:
            self._warn_of(error)
            return None
        return staging

    def _write_and_publish(self, key: str, staging: Path, write: Callable[[Path], None]) -> bool:
        """Write an entry into its staging folder and publish it; return whether that succeeded, else warn."""
        try:
            write(staging)
            if not publish(staging, self.folder / key):
                return False
            flush(self.folder)
            return True
        except OSError as error:
            self._warn_of(error)
            return False
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _warn_of(self, error: OSError) -> None:
        self._warn(f"nothing is cached for later runs: {self.folder}: {reason(error)}")

    def _make_room(self, size: int) -> None:
        """Evict the least recently used entries until `size` more bytes fit into the budget."""
        entries = self.entries()
        total = sum(entry.bytes for entry in entries)
        for entry in entries:
            if total + size <= self.budget:
                return
            with contextlib.suppress(FileNotFoundError):  # another process evicts entries, too
                if not entry.key.endswith(PARTIAL_SUFFIX):
                    self.remove(entry.key)
                else:
                    with locked(self.folder / entry.key, lambda: False) as is_ours:
                        if not is_ours:  # it is being written
                            continue
                        self.remove(entry.key)
            total -= entry.bytes

    def _paths(self) -> list[Path]:
        try:
            return list(self.folder.iterdir())
        except FileNotFoundError:
            return []

    def _warn(self, sentence: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            self._tell(f"{sentence}; the run continues without it")
