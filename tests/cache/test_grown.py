"""Cache entries that are written row by row: processes find them complete, complete them, or get an error."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import numpy as np
import pytest

from nlp_transfer.cache import store as storage
from nlp_transfer.cache.store import PARTIAL_SUFFIX, Store
from nlp_transfer.machine.disk import locked

KEY, OTHER = "a" * 64, "b" * 64
ABOUT = {"what": "rows of acme/large"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", 1e9)


def grow(folder: Path) -> None:
    (folder / "rows").write_bytes(b"12345")


def test_an_unreadable_entry_is_computed_again(store: Store, monkeypatch: pytest.MonkeyPatch):
    place = store.build_folder(KEY, ABOUT, grow)
    inode = place.stat().st_ino
    checked = storage.verified_folder

    def refused(path: Path) -> Path:
        if path.exists() and path.stat().st_ino == inode:
            raise PermissionError(errno.EACCES, "refused")
        return checked(path)

    monkeypatch.setattr(storage, "verified_folder", refused)
    assert store.build_folder(KEY, ABOUT, grow) == place
    assert [entry.key for entry in store.entries()] == [KEY]
    assert place.stat().st_ino != inode


def test_an_entry_that_can_neither_be_read_nor_removed_is_an_error(store: Store, monkeypatch: pytest.MonkeyPatch):
    place = store.build_folder(KEY, ABOUT, grow)
    (place / "rows").write_bytes(b"damaged")

    def refused(key: str) -> None:
        raise PermissionError(errno.EPERM, "it is not yours")

    monkeypatch.setattr(store, "remove", refused)
    with pytest.raises(PermissionError, match="it is not yours"):
        store.build_folder(KEY, ABOUT, lambda folder: pytest.fail("nothing can take its place"))
    assert [entry.key for entry in store.entries()] == [KEY]  # and no other beside it


def test_an_entry_removed_while_written_is_an_error_and_written_again(store: Store):
    def robbed(folder: Path) -> None:
        grow(folder)
        store.remove(folder.name)
        store.enforce_budget(folder)

    with pytest.raises(FileNotFoundError):
        store.build_folder(KEY, ABOUT, robbed)
    assert not list(store.folder.iterdir())
    assert (store.build_folder(KEY, ABOUT, grow) / "rows").read_bytes() == b"12345"


def test_a_second_process_waits_and_writes_nothing(store: Store):
    output: list[str] = []
    asked, found = threading.Event(), []

    def tell(sentence: str) -> None:
        output.append(sentence)
        asked.set()

    late = Store(store.folder, 1e9, tell)
    thread = threading.Thread(
        target=lambda: found.append(late.build_folder(KEY, ABOUT, lambda _: pytest.fail("it is there")))
    )

    def slowly(folder: Path) -> None:
        grow(folder)
        thread.start()
        assert asked.wait(10)

    place = store.build_folder(KEY, ABOUT, slowly)
    thread.join(10)
    assert found == [place]
    assert output == ["another process is writing rows of acme/large; this one waits for it"]
    assert [path.name for path in store.folder.iterdir()] == [KEY]


def test_an_interrupted_entry_keeps_what_was_written(store: Store):
    def stopped(folder: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.build_folder(KEY, ABOUT, stopped)
    assert not list(store.folder.iterdir())

    def half(folder: Path) -> None:
        grow(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.build_folder(KEY, ABOUT, half)
    assert [entry.key for entry in store.entries()] == [KEY + PARTIAL_SUFFIX]


def test_unfinished_entries_are_not_evicted(store: Store):
    def half(folder: Path) -> None:
        (folder / "rows").write_bytes(bytes(9000))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.build_folder(KEY, ABOUT, half)
    growing, small = store.folder / f"{KEY}{PARTIAL_SUFFIX}", Store(store.folder, 10_000)
    with locked(growing):
        small.keep(OTHER, np.ones(1000), {})
        assert {entry.key for entry in store.entries()} == {KEY + PARTIAL_SUFFIX, OTHER}
    small.keep("c" * 64, np.ones(50), {})
    assert {entry.key for entry in store.entries()} == {OTHER, "c" * 64}
