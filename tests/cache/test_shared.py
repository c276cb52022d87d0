"""A matrix that ranks write into one file: no process holds it, and a disk that fails costs time and nothing else."""

from __future__ import annotations

import errno
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator

from nlp_transfer.cache import entries
from nlp_transfer.cache.entries import MatrixWriter
from nlp_transfer.cache.features import Features
from nlp_transfer.cache.shared import SharedMatrix, WriteFailed
from nlp_transfer.cache.store import Store
from nlp_transfer.training.inference import InMemory
from tests.cache.counted import counted, prepared_for

KEY = "0" * 64


def written(store: Store, values: np.ndarray, *, at_once: int = 100) -> SharedMatrix:
    """Return a file into which the rows were written in another order than theirs."""
    shared = SharedMatrix(Accelerator(cpu=True), store)
    matrix = shared.allocate(*values.shape)
    for examples in np.array_split(np.random.default_rng(0).permutation(len(values)), len(values) // at_once):
        matrix.put(examples, values[examples])
    assert matrix is shared
    return shared


def test_rows_written_in_any_order_are_read_back(tmp_path: Path):
    values = np.random.default_rng(1).normal(size=(1000, 7)).astype(np.float32)
    store = Store(tmp_path, 1e9)
    shared = written(store, values)
    assert store.find(KEY) is None
    found = shared.values()
    assert shared.finish(KEY, {"what": "features"})
    for each in (found, store.find(KEY)):
        assert each is not None
        assert each.tobytes() == values.tobytes()
        assert not each.flags.writeable
    assert [path.name for path in tmp_path.iterdir()] == [KEY]
    (entry,) = store.entries()
    assert (entry.about["shape"], entry.about["dtype"], entry.about["what"]) == ([1000, 7], "float32", "features")


@pytest.mark.parametrize("here", ["1", None])
def test_machines_with_a_shared_disk_write_separate_files(tmp_path: Path, monkeypatch, here: str | None):
    shared = SharedMatrix(Accelerator(cpu=True), Store(tmp_path, 1e9))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", here) if here else monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert isinstance(shared.allocate(3, 2), InMemory)
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert shared.allocate(3, 2) is shared


@pytest.mark.parametrize("place", [0, 1, 2])
def test_removing_the_cache_folder_does_not_disturb_a_run(tmp_path: Path, monkeypatch, place: int):
    monkeypatch.setattr(entries, "_HEARTBEAT", -1)  # seconds
    message: list[str] = []
    values = np.random.default_rng(1).normal(size=(6, 7)).astype(np.float32)
    shared = SharedMatrix(Accelerator(cpu=True), Store(tmp_path / "store", 1e9, message.append))
    matrix = shared.allocate(*values.shape)
    for number, examples in enumerate(np.array_split(np.arange(6), 3)):
        if number == place:
            shutil.rmtree(tmp_path / "store")
        matrix.put(examples, values[examples])
    found = matrix.values()
    shared.finish(KEY, {"what": "features"})
    assert found.tobytes() == values.tobytes()
    assert ["nothing is cached for later runs" in sentence for sentence in message] == [True]


def test_removed_files_stay_readable_while_open(tmp_path: Path):
    values = np.ones((200, 3), np.float32)
    shared = written(Store(tmp_path, 1e9), values)
    found = shared.values()
    shared.discard()
    assert not list(tmp_path.iterdir())
    assert np.array_equal(found, values)


def test_memory_does_not_grow_with_the_rows(tmp_path: Path):
    peaks = []
    for rows in (500, 4000):
        values = np.zeros((rows, 256), np.float32)
        tracemalloc.start()
        written(Store(tmp_path / str(rows), 1e9), values).values()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 100_000  # bytes; the values are 3,584,000 more


def test_a_failing_disk_is_reported_and_rows_are_kept_in_memory(
    home: Path, store_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    expected = prepared_for(home, **{"cache.gib": 0}).features("train")
    message: list[str] = []
    with counted(prepared := prepared_for(home)) as passes:
        assert prepared.feature_cache.store is not None
        monkeypatch.setattr(prepared.feature_cache.store, "_tell", message.append)
        monkeypatch.setattr(
            MatrixWriter, "put", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "the disk is ill"))
        )
        found = prepared.features("train")
    assert sum(passes) == 2 * 48
    assert found.tobytes() == expected.tobytes()
    assert [sentence.count("the disk is ill") for sentence in message] == [1]
    assert [path for path in store_folder.iterdir() if path.name.startswith(".making")] == []


def test_write_errors_of_another_rank_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    message: list[str] = []
    matrix = written(Store(tmp_path, 1e9, message.append), np.ones((200, 3), np.float32))
    theirs = OSError(errno.EIO, "the other disk is ill")
    monkeypatch.setattr("nlp_transfer.cache.shared.gather_object", lambda own: [*own, theirs])
    with pytest.raises(WriteFailed):
        matrix.values()
    assert [sentence.count("the other disk is ill") for sentence in message] == [1]
    assert not list(tmp_path.iterdir())


def test_interrupted_writes_leave_nothing(home: Path, store_folder: Path, monkeypatch: pytest.MonkeyPatch):
    put, calls = MatrixWriter.put, []

    def interrupted(*given: object) -> None:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        put(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(MatrixWriter, "put", interrupted)
    prepared = prepared_for(home, **{"evaluation.batch_tokens": 64})
    features: Features = prepared.feature_cache
    with pytest.raises(KeyboardInterrupt):
        features.of("train", prepared.columns["train"])
    assert list(store_folder.iterdir()) == []
    monkeypatch.undo()
    assert len(prepared.features("train")) == 48
