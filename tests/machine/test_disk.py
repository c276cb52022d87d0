"""Files that are whole or absent, and folders that one process at a time is at."""

from __future__ import annotations

import builtins
import errno
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from nlp_transfer.errors import UserError
from nlp_transfer.machine.disk import atomic_folder, locked, write_whole


@pytest.mark.parametrize("before", [None, "old"])
def test_a_failed_write_leaves_the_file_unchanged(tmp_path: Path, before: str | None):
    path = tmp_path / "told.json"
    if before is not None:
        path.write_text(before)

    def half(making: Path) -> None:
        making.write_text("hal")
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        write_whole(path, half)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == ({path.name: before} if before else {})
    write_whole(path, lambda making: making.write_text("whole"))
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {path.name: "whole"}


def test_a_lock_is_refused_or_waited_for(tmp_path: Path):
    asked, order = threading.Event(), []

    def waits() -> bool:
        asked.set()
        return True

    def other() -> None:
        with locked(tmp_path, waits) as is_ours:
            order.append(("other", is_ours))

    with locked(tmp_path, lambda: pytest.fail("nobody has it")) as is_ours:
        assert is_ours
        with locked(tmp_path, lambda: False) as twice:
            assert not twice
        thread = threading.Thread(target=other)
        thread.start()
        assert asked.wait(10)
        order.append(("first", True))
    thread.join(10)
    assert order == [("first", True), ("other", True)]


def test_a_second_writer_of_one_folder_is_refused(tmp_path: Path):
    folder = tmp_path / "made"
    (tmp_path / ".making-made.lock").write_text("of a process that was killed")
    for content in ("first", "again"):
        with atomic_folder(folder, "mark", "thing") as making:
            (making / "mark").write_text(content)
            with (
                pytest.raises(UserError, match=f"{folder} is being written by another process; wait for it"),
                atomic_folder(folder, "mark", "thing"),
            ):
                pytest.fail("both of them write")
        assert (folder / "mark").read_text() == content
        assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("renamed", range(4))
def test_a_kill_while_replacing_a_folder_loses_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: int):
    folder, rename, left = tmp_path / "made", Path.rename, [True] * renamed

    def write(content: str) -> None:
        with atomic_folder(folder, "mark", "thing") as making:
            (making / "mark").write_text(content)

    def killed(path: Path, target: Path) -> Path:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return rename(path, target)

    write("old")
    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(Path, "rename", killed)
        write("new")
    with pytest.raises(RuntimeError), atomic_folder(folder, "mark", "thing"):
        raise RuntimeError
    assert (folder / "mark").read_text() == ("old" if renamed < 2 else "new")
    write("newer")
    assert (folder / "mark").read_text() == "newer"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_cannot_be_replaced_is_still_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, rename = tmp_path / "made", Path.rename

    def refused(path: Path, target: Path) -> Path:
        if path.name == ".making-made":
            raise OSError(errno.EIO, "the disk is broken")
        return rename(path, target)

    with atomic_folder(folder, "mark", "thing") as making:
        (making / "mark").write_text("old")
    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(UserError, match="the disk is broken"), atomic_folder(folder, "mark", "thing") as making:
        (making / "mark").write_text("new")
    assert [(folder / "mark").read_text(), *tmp_path.iterdir()] == ["old", folder]


@pytest.mark.parametrize("anew", [False, True])
def test_the_lock_of_a_renamed_folder_is_not_taken(tmp_path: Path, anew: bool):
    folder, asked, had = tmp_path / "a", threading.Event(), []
    folder.mkdir()

    def waits() -> bool:
        asked.set()
        return True

    def late() -> None:
        with locked(folder, waits) as is_ours:
            had.append(is_ours)

    with locked(folder):
        thread = threading.Thread(target=late)
        thread.start()
        assert asked.wait(10)
        folder.rename(tmp_path / "b")
        if anew:
            folder.mkdir()
            with locked(folder) as is_ours:  # another one of the same name
                assert is_ours
    thread.join(10)
    assert had == [False]


def test_a_deleted_folder_is_not_locked(tmp_path: Path):
    with locked(tmp_path / "gone") as is_ours:
        assert not is_ours
    assert not list(tmp_path.iterdir())


def test_a_system_without_locks_is_an_error_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def without(name: str, *given: Any) -> Any:
        if name == "fcntl":
            raise ImportError(name)
        return real(name, *given)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(OSError, match="no such locks"), locked(tmp_path):
        pass
