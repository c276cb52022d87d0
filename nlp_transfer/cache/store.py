"""A store of arrays, and of folders of files, that runs keep for later ones: it knows files, keys and a budget alone.

An entry is a folder ``<key>/`` (see ``entries``), whole or absent: it is built beside its place and renamed once. Who
uses the store never fails for it: what cannot be read is made again, what cannot be written is not kept, and that is
said in one sentence. Several processes may use one folder.
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
    Unfinished,
    announce,
    checked,
    complete,
    copy,
    delete,
    described,
    mapped,
    read,
    seal,
    sizes,
    takes_place,
    write,
)
from nlp_transfer.cache.leftovers import making_name, sweep, trash_name
from nlp_transfer.data.paths import expanded
from nlp_transfer.machine.disk import LOCK, flush, locked, reason
from nlp_transfer.settings import CacheSettings

ENVIRONMENT = "NLP_TRANSFER_CACHE"
GROWING = ".part"  # the name of an entry that is not complete ends with it
_Found = TypeVar("_Found")
_KEY = re.compile(rf"[0-9a-f]{{64}}({re.escape(GROWING)})?")
_MOST_OF_FREE = 0.5  # of the room on the disk: the run itself has more to write


def folder_of(named: str | None) -> Path | None:
    """Return the folder of the store; None where none is named and the user has no home.

    Args:
        named: ``cache.folder``; None: the environment variable NLP_TRANSFER_CACHE, else the user's cache folder.
    """
    if given := named or os.environ.get(ENVIRONMENT):
        return expanded(given)
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    base = base if base.is_absolute() else expanded("~/.cache")  # the specification wants relative ones ignored
    return base / "nlp_transfer" if base.is_absolute() else None


def store_of(settings: CacheSettings, tell: Callable[[str], None] = lambda _: None) -> Store | None:
    """Return where what was computed is kept; None where that is not wanted, or nowhere, which is told."""
    store = store_of_rows(settings, tell)
    if settings.gib and store is None:
        tell("there is no home folder to keep anything in for later runs; set cache.folder=..., or cache.gib=0")
    return store


def store_of_rows(settings: CacheSettings, tell: Callable[[str], None] = lambda _: None) -> Store | None:
    """Return the same for rows of the Hub; where there is none, whoever asks for such rows hears of it."""
    folder = folder_of(settings.folder) if settings.gib else None
    return None if folder is None else Store(folder, settings.gib * 2**30, tell)


class Store:
    """Arrays and folders by key in one folder.

    Args:
        folder: where they lie; it is made when something is kept.
        budget: bytes that they may take together; what was not used for longest goes first, but never what a process
            is writing at the time.
        tell: is told once, in a sentence, why something could not be kept or read.
    """

    def __init__(self, folder: Path, budget: float, tell: Callable[[str], None] = lambda _: None) -> None:
        self.folder, self.budget = folder, budget
        self._tell, self._told = tell, False

    def find(self, key: str) -> np.ndarray | None:
        """Return the values of a key, mapped from the disk and read-only, or None; a damaged entry is taken away."""
        return self._found(key, read)

    def find_folder(self, key: str) -> Path | None:
        """Return where the files of a key lie, or None; a damaged entry is taken away."""
        return self._found(key, checked)

    def peek(self, key: str) -> np.ndarray | None:
        """Return the values of a key or None, as `find`, but change nothing."""
        try:
            return read(self.folder / key)
        except (ValueError, OSError):
            return None

    def keep(self, key: str, values: np.ndarray, about: dict[str, Any]) -> np.ndarray:
        """Write the values of a key down; return them, mapped from the disk if they were kept.

        Args:
            key: says all that the values hang on.
            values: of any dtype that NumPy writes without pickle; bfloat16 as uint16, which `about` should say.
            about: plain values for people who look at the entry; secrets in them are hidden.
        """
        if not values.size:
            return values
        if self._kept(key, values.nbytes, lambda making: write(making, key, values, about)):
            with contextlib.suppress(FileNotFoundError):  # another process needed the room already
                return mapped(self.folder / key)
        return values

    def keep_folder(self, key: str, folder: Path, about: dict[str, Any]) -> Path | None:
        """Copy the files of a folder; return where they lie from now on, or None if they are not kept.

        Args:
            key: says all that the files hang on.
            folder: of the files.
            about: as for `keep`.
        """
        kept = self._kept(key, sum(sizes(folder)), lambda making: copy(making, key, folder, about))
        return self.folder / key if kept or (self.folder / key / ENTRY).is_file() else None

    def grown(self, key: str, about: dict[str, Any], grow: Callable[[Path], None]) -> Path:
        """Return where the files of a key lie, which several processes may have written, one after the other.

        Until it is complete the entry lies under another name, where whatever ends a process leaves what it has
        written, for the next one to go on from; where that is nothing, nothing stays. Whoever comes while another
        process writes says so and waits for it.

        Args:
            key: says all that the files hang on.
            about: as for `keep`.
            grow: is given a folder and writes the files that are not there yet, each of them whole or not at all; it
                tells `has_grown` of each.

        Raises:
            OSError: if they cannot be written; of an entry that cannot be read, if it cannot be taken away either.
        """
        place, growing = self.folder / key, self.folder / f"{key}{GROWING}"

        def waits() -> bool:
            self._tell(f"another process is at {about.get('what')}; this one waits for it")
            return True

        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while (found := self.find_folder(key)) is None:
            growing.mkdir(exist_ok=True)
            with locked(growing, waits) as is_ours:
                if not is_ours:
                    continue
                if (found := self.find_folder(key)) is not None:  # another process has completed it meanwhile
                    delete(growing)
                    break
                try:
                    if os.path.lexists(place):
                        with contextlib.suppress(FileNotFoundError):  # another process needed the room already
                            self.remove(key)
                    if not (growing / ENTRY).is_file():
                        announce(growing, key, about)
                    grow(growing)
                except BaseException:
                    if {path.name for path in growing.glob("*")} <= {ENTRY, LOCK}:
                        delete(growing)
                    raise
                complete(growing, key, about)
                takes_place(growing, place)
                flush(self.folder)
        return found

    def has_grown(self, growing: Path) -> None:
        """Make room for what was written to an entry that is not complete.

        Raises:
            OSError: if it is more than may be kept, or was taken away.
        """
        os.utime(growing / ENTRY)
        if sum(sizes(growing)) > self.budget:
            most = f"the {self.budget / 2**30:g} GiB that cache.gib allows"
            raise OSError(errno.EDQUOT, f"it is more than {most}")
        self._make_room(0)

    def entries(self) -> list[Entry]:
        """Return what is there, what was not used for longest first.

        Raises:
            OSError: if the folder is there and cannot be listed.
        """
        found = []
        for path in self._paths():
            if _KEY.fullmatch(path.name):
                with contextlib.suppress(FileNotFoundError):  # taken away meanwhile
                    found.append(described(path))
        return sorted(found, key=lambda entry: (entry.used, entry.key))

    def remove(self, key: str) -> None:
        """Take an entry away so that it is never half there under its name.

        Raises:
            OSError: if that is not possible.
        """
        trash = self.folder / trash_name()
        (self.folder / key).rename(trash)
        delete(trash)

    def _found(self, key: str, read: Callable[[Path], _Found]) -> _Found | None:
        path = self.folder / key
        try:
            found = read(path)
        except (ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError):
            if os.path.lexists(path):  # pathlib's own follows links
                with contextlib.suppress(OSError):
                    self.remove(key)
            return None
        except OSError as error:
            self._say(f"what was computed before cannot be read from {path}: {reason(error)}")
            return None
        with contextlib.suppress(OSError):  # a folder that is read-only serves, too
            os.utime(path / ENTRY)
        return found

    def begin(self, shape: tuple[int, ...], dtype: np.dtype) -> Unfinished | None:
        """Take the room that values need, to write them row by row; None where they will not be kept.

        What was begun ends with `finish` or `discard`.
        """
        size = math.prod(shape) * dtype.itemsize
        making = self._room_for(size) if size else None
        if making is None:
            return None
        try:
            return Unfinished.create(making, shape, dtype)
        except OSError as error:
            self._refuse(error)
            shutil.rmtree(making, ignore_errors=True)
            return None

    def finish(self, key: str, unfinished: Unfinished, about: dict[str, Any]) -> None:
        """Give all values of a key that were written their place; see `keep`."""
        self._settle(key, unfinished.folder, lambda making: seal(making, key, unfinished.values(), about))
        unfinished.close()

    def discard(self, unfinished: Unfinished, error: OSError | None = None) -> None:
        """Take away what was begun; say why, if an error kept it from being written."""
        unfinished.close()
        shutil.rmtree(unfinished.folder, ignore_errors=True)
        if error is not None:
            self._refuse(error)

    def _kept(self, key: str, size: int, write: Callable[[Path], None]) -> bool:
        """Let an entry of so many bytes be written; return whether it took its place, or say why it cannot."""
        making = self._room_for(size)
        return making is not None and self._settle(key, making, write)

    def _room_for(self, size: int) -> Path | None:
        """Return a new folder where an entry of so many bytes can be written, or say why there is none."""
        mib = f"{size / 2**20:,.1f} MiB"
        if size > self.budget:
            self._say(f"{mib} are not kept for later runs: more than cache.gib allows")
            return None
        making = self.folder / making_name()
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # texts can be told from what is kept
            sweep(self._paths())
            self._make_room(size)
            if size > _MOST_OF_FREE * shutil.disk_usage(self.folder).free:
                self._say(f"{mib} are not kept for later runs: {self.folder} is nearly full")
                return None
            making.mkdir()
        except OSError as error:
            self._refuse(error)
            return None
        return making

    def _settle(self, key: str, making: Path, write: Callable[[Path], None]) -> bool:
        """Let an entry be written in its folder and take its place; return whether it did, or say why it cannot."""
        try:
            write(making)
            if not takes_place(making, self.folder / key):
                return False
            flush(self.folder)
            return True
        except OSError as error:
            self._refuse(error)
            return False
        finally:
            shutil.rmtree(making, ignore_errors=True)

    def _refuse(self, error: OSError) -> None:
        self._say(f"nothing is kept for later runs: {self.folder}: {reason(error)}")

    def _make_room(self, size: int) -> None:
        entries = self.entries()
        total = sum(entry.bytes for entry in entries)
        for entry in entries:
            if total + size <= self.budget:
                return
            with contextlib.suppress(FileNotFoundError):  # another process makes room as well
                if not entry.key.endswith(GROWING):
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

    def _say(self, sentence: str) -> None:
        if not self._told:
            self._told = True
            self._tell(f"{sentence}; the run goes on without")
