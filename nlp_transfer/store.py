"""A store of arrays, and of folders of files, that runs keep for later ones: it knows files, keys and a budget alone.

An entry is a folder ``<key>/`` with ``entry.json`` and ``values.npy`` or the files, whole or absent: it is built beside
its place and renamed once. Who uses the store never fails for it: what cannot be read is made again, what cannot be
written is not kept, and that is said in one sentence. Several processes may use one folder.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from nlp_transfer.data.paths import expanded
from nlp_transfer.disk import flush, reason
from nlp_transfer.secrets import redacted

ENVIRONMENT = "NLP_TRANSFER_CACHE"
FORMAT = 1
_VALUES, _ENTRY = "values.npy", "entry.json"
_Found = TypeVar("_Found")
_KEY = re.compile(r"[0-9a-f]{64}")
_MAKING = re.compile(r"\.making-(\d+)-[0-9a-f]+")
_SOON, _LATE = 600.0, 86400.0  # seconds after which what a dead process, and what any process left, is taken away
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


class Store:
    """Arrays and folders by key in one folder.

    Args:
        folder: where they lie; it is made when something is kept.
        budget: bytes that they may take together; what was not used for longest goes first.
        tell: is told once, in a sentence, why something could not be kept or read.
    """

    def __init__(self, folder: Path, budget: float, tell: Callable[[str], None] = lambda _: None) -> None:
        self.folder, self.budget = folder, budget
        self._tell, self._told = tell, False

    def find(self, key: str) -> np.ndarray | None:
        """Return the values of a key, mapped from the disk and read-only, or None; a damaged entry is taken away."""
        return self._found(key, _read)

    def find_folder(self, key: str) -> Path | None:
        """Return where the files of a key lie, or None; a damaged entry is taken away."""
        return self._found(key, _checked)

    def peek(self, key: str) -> np.ndarray | None:
        """Return the values of a key or None, as `find`, but change nothing."""
        try:
            return _read(self.folder / key)
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
        if self._kept(key, values.nbytes, lambda making: _write(making, key, values, about)):
            with contextlib.suppress(FileNotFoundError):  # another process needed the room already
                return _mapped(self.folder / key)
        return values

    def keep_folder(self, key: str, folder: Path, about: dict[str, Any]) -> Path | None:
        """Copy the files of a folder; return where they lie from now on, or None if they are not kept.

        Args:
            key: says all that the files hang on.
            folder: of the files.
            about: as for `keep`.
        """
        kept = self._kept(key, sum(_sizes(folder)), lambda making: _copy(making, key, folder, about))
        return self.folder / key if kept or (self.folder / key / _ENTRY).is_file() else None

    def entries(self) -> list[Entry]:
        """Return what is there, what was not used for longest first.

        Raises:
            OSError: if the folder is there and cannot be listed.
        """
        found = []
        for path in self._paths():
            if _KEY.fullmatch(path.name):
                with contextlib.suppress(FileNotFoundError):  # taken away meanwhile
                    found.append(_described(path))
        return sorted(found, key=lambda entry: (entry.used, entry.key))

    def remove(self, key: str) -> None:
        """Take an entry away so that it is never half there under its name.

        Raises:
            OSError: if that is not possible.
        """
        trash = self.folder / f".trash-{os.urandom(8).hex()}"
        (self.folder / key).rename(trash)
        _delete(trash)

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
            os.utime(path / _ENTRY)
        return found

    def _kept(self, key: str, size: int, write: Callable[[Path], None]) -> bool:
        """Let an entry of so many bytes be written; return whether it took its place, or say why it cannot."""
        mib = f"{size / 2**20:,.1f} MiB"
        if size > self.budget:
            self._say(f"{mib} are not kept for later runs: more than cache.gib allows")
            return False
        path, making = self.folder / key, self.folder / f".making-{os.getpid()}-{os.urandom(4).hex()}"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # texts can be told from what is kept
            self._sweep()
            self._make_room(size)
            if size > _MOST_OF_FREE * shutil.disk_usage(self.folder).free:
                self._say(f"{mib} are not kept for later runs: {self.folder} is nearly full")
                return False
            making.mkdir()
            write(making)
            if not _takes_place(making, path):
                return False
            flush(self.folder)
            return True
        except OSError as error:
            self._say(f"nothing is kept for later runs: {self.folder}: {reason(error)}")
            return False
        finally:
            shutil.rmtree(making, ignore_errors=True)

    def _make_room(self, size: int) -> None:
        entries = self.entries()
        total = sum(entry.bytes for entry in entries)
        for entry in entries:
            if total + size <= self.budget:
                return
            with contextlib.suppress(FileNotFoundError):  # another process makes room as well
                self.remove(entry.key)
            total -= entry.bytes

    def _sweep(self) -> None:
        """Take away what killed processes left unfinished."""
        for path in self._paths():
            making = _MAKING.fullmatch(path.name)
            with contextlib.suppress(OSError):
                age = time.time() - path.stat().st_mtime
                # A number of a process means something on one machine, and a folder may be shared by several.
                dead = making is not None and (age > _LATE or (age > _SOON and not _is_alive(int(making[1]))))
                if dead or path.name.startswith(".trash-"):
                    _delete(path)

    def _paths(self) -> list[Path]:
        try:
            return list(self.folder.iterdir())
        except FileNotFoundError:
            return []

    def _say(self, sentence: str) -> None:
        if not self._told:
            self._told = True
            self._tell(f"{sentence}; the run goes on without")


def _read(path: Path) -> np.ndarray:
    """Return the values of an entry.

    Raises:
        ValueError: they are not what was written.
        OSError: they cannot be read.
    """
    about = _about(path)
    with (path / _VALUES).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if (about.get("format"), about.get("key"), about.get("sha256")) != (FORMAT, path.name, digest):
        raise ValueError(f"{path} is damaged")
    return _mapped(path)


def _checked(path: Path) -> Path:
    """Return the folder of an entry whose files are what was written.

    Raises:
        ValueError, OSError: as `_read`.
    """
    about = _about(path)
    if (about.get("format"), about.get("key"), about.get("sha256")) != (FORMAT, path.name, _digest_of_files(path)):
        raise ValueError(f"{path} is damaged")
    return path


def _digest_of_files(folder: Path) -> str:
    """Return a digest of all files of an entry but the one that says so."""
    lines = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / _ENTRY):
        with path.open("rb") as file:
            lines.append(f"{path.relative_to(folder).as_posix()} {hashlib.file_digest(file, 'sha256').hexdigest()}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _mapped(path: Path) -> np.ndarray:
    return np.asarray(np.lib.format.open_memmap(path / _VALUES, mode="r"))  # of plain arrays alone: it has no pickle


def _about(path: Path) -> dict[str, Any]:
    try:
        about = json.loads((path / _ENTRY).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(str(error)) from None
    if not isinstance(about, dict):
        raise ValueError(f"{path / _ENTRY} holds no object")
    return about


def _write(making: Path, key: str, values: np.ndarray, about: dict[str, Any]) -> None:
    """Write an entry into a folder of its own, so that the disk really holds it."""
    with (making / _VALUES).open("wb") as file:
        np.save(file, np.ascontiguousarray(values), allow_pickle=False)
    flush(making / _VALUES)
    with (making / _VALUES).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    _write_entry(
        making,
        key,
        about | {"dtype": str(values.dtype), "shape": list(values.shape), "bytes": values.nbytes, "sha256": digest},
    )


def _copy(making: Path, key: str, folder: Path, about: dict[str, Any]) -> None:
    """Write an entry of files, as `_write` one of values."""
    shutil.copytree(folder, making, dirs_exist_ok=True)
    for path in making.rglob("*"):
        flush(path)
    _write_entry(making, key, about | {"bytes": sum(_sizes(making)), "sha256": _digest_of_files(making)})


def _write_entry(making: Path, key: str, about: dict[str, Any]) -> None:
    entry = {name: redacted(value) if isinstance(value, str) else value for name, value in about.items()}
    entry |= {"created": datetime.now(UTC).isoformat(timespec="seconds"), "key": key, "format": FORMAT}
    (making / _ENTRY).write_text(json.dumps(entry, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for path in (making / _ENTRY, making):
        flush(path)


def _takes_place(making: Path, path: Path) -> bool:
    """Give an entry its name; return whether it got it, and not the same one of a process that was faster."""
    try:
        making.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _described(path: Path) -> Entry:
    marked = path / _ENTRY if (path / _ENTRY).is_file() else path
    used = marked.stat().st_mtime
    try:
        about = _about(path)
    except (OSError, ValueError):
        about = {}
    return Entry(path.name, sum(_sizes(path)), used, about)


def _sizes(path: Path) -> Iterator[int]:
    for file in path.rglob("*") if path.is_dir() else (path,):
        if file.is_symlink() or not file.is_dir():
            yield file.lstat().st_size


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it belongs to somebody else
        return True
    return True
