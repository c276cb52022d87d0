"""A checkpoint is whole or absent, and what is damaged is found out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from nlp_transfer.errors import UserError
from nlp_transfer.machine import disk
from nlp_transfer.training import checkpoint
from nlp_transfer.training.checkpoint import Snapshot

TENSORS = {"model": {"a": torch.arange(6.0).view(2, 3)}, "optimizer": {"step/a": torch.tensor(3.0)}}


def snapshot(step: int) -> Snapshot:
    return Snapshot(step, {"keeper": {"best": 0.5}}, TENSORS)


def test_what_was_committed_is_read_back(tmp_path: Path):
    path = checkpoint.commit(tmp_path, snapshot(12))
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert (found.path, found.snapshot.step, found.snapshot.state) == (path, 12, {"keeper": {"best": 0.5}})
    for stem, tensors in TENSORS.items():
        for name, tensor in tensors.items():
            assert torch.equal(found.snapshot.tensors[stem][name], tensor)
    assert checkpoint.newest(tmp_path / "nowhere") is None


def test_two_are_kept_and_nothing_else_is_left(tmp_path: Path):
    for step in (5, 10, 999_999, 1_000_000):
        checkpoint.commit(tmp_path, snapshot(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1000000", "step-999999"]
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found.snapshot.step == 1_000_000
    (tmp_path / ".making-step-000007").mkdir()
    (tmp_path / ".trash-step-000001").mkdir()
    checkpoint.remove_unfinished(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_what_a_kill_left_of_a_removal_is_taken_away(tmp_path: Path):
    folder = tmp_path / "checkpoints"
    checkpoint.commit(folder, snapshot(1))
    (tmp_path / ".trash-checkpoints").mkdir()
    disk.remove(folder)
    (tmp_path / ".trash-checkpoints").mkdir()  # killed after the rename
    disk.remove(folder)
    assert list(tmp_path.iterdir()) == []


def test_later_steps_are_forgotten(tmp_path: Path):
    for step in (5, 10):
        checkpoint.commit(tmp_path, snapshot(step))
    (tmp_path / "step-000010" / "manifest.json").unlink()
    checkpoint.delete_after(tmp_path, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000005"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, empty, Path.unlink])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_a_damaged_one_is_named_and_the_one_before_it_taken(tmp_path: Path, name: str, damage):
    checkpoint.commit(tmp_path, snapshot(1))
    path = checkpoint.commit(tmp_path, snapshot(2))
    damage(path / name)
    named = name if name != "manifest.json" else "step-000002/.*"  # a wrong hash there accuses the file it is of
    with pytest.raises(UserError, match=f"{named} is damaged"):
        checkpoint.read(path)
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found.snapshot.step == 1
    assert len(found.damaged) == 1
    damage(tmp_path / "step-000001" / name)
    with pytest.raises(UserError, match=r"no checkpoint can be used.*resume=never"):
        checkpoint.newest(tmp_path)


@pytest.mark.parametrize(("where", "function"), [(os, "fsync"), (Path, "rename"), (Path, "chmod")])
def test_what_cannot_be_written_leaves_the_earlier_ones(tmp_path: Path, monkeypatch, where, function: str):
    checkpoint.commit(tmp_path, snapshot(1))

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(where, function, full)
        with pytest.raises(UserError, match=r"step-000002 cannot be written: No space left.*MiB are free"):
            checkpoint.commit(tmp_path, snapshot(2))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
    assert checkpoint.read(checkpoint.commit(tmp_path, snapshot(2))).step == 2


def test_others_may_read_it_as_the_umask_says(tmp_path: Path):
    plain = tmp_path / "plain"
    plain.write_text("")
    path = checkpoint.commit(tmp_path, snapshot(1))
    assert {file.stat().st_mode for file in path.iterdir()} == {plain.stat().st_mode}
