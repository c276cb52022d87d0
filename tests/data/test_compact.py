"""Many texts in little memory are the texts they were, and a run on them is the run on a list."""

from __future__ import annotations

import copy
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlp_transfer.data import batches, compact, ragged, sequences, tokens
from nlp_transfer.data.compact import CompactCells
from nlp_transfer.data.corpus import read_corpus
from nlp_transfer.data.keys import Keys
from nlp_transfer.data.missing import MISSING
from nlp_transfer.settings import DataSettings
from tests.cache.counted import bits
from tests.data.many import few_tries, many, rows_told, write
from tests.encoder.families import tiny_encoder

TEXTS = ["", "plain", "Grüße, 世界 🙂", "\ud800 half", "a\0b", "", "x" * 5000, "end"] * 3


@pytest.mark.parametrize("at_once", [1, 3, 4096])
@pytest.mark.parametrize("texts", [TEXTS, [], [""]], ids=["many", "none", "nothing"])
def test_compact_columns_behave_like_lists(monkeypatch: pytest.MonkeyPatch, texts: list[str], at_once: int):
    monkeypatch.setattr(compact, "_CHUNK", at_once)
    made = CompactCells(texts)
    assert (len(made), list(made), made) == (len(texts), texts, texts)
    assert [made[row] for row in range(-len(texts), len(texts))] == texts * 2
    assert [made[np.int64(row)] for row in range(len(texts))] == texts
    for part in (slice(None), slice(2, 5), slice(-3, None), slice(None, None, -2), slice(99, 100)):
        assert made[part] == texts[part]
    assert made != [*texts, "more"]
    assert not texts or made != [*texts[:-1], "other"]
    for row in (len(texts), -len(texts) - 1):
        with pytest.raises(IndexError):
            made[row]


def test_compact_columns_take_one_number_of_memory_per_row(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compact, "_MANY", 1)
    texts = [f"text number {row}" for row in range(20_000)]
    tracemalloc.start()
    made = CompactCells(texts)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert made == texts
    assert taken < 8 * len(texts) + 10_000  # bytes; as objects they take 1,400,000


@few_tries
@given(st.lists(st.integers(0, 2), min_size=1), st.lists(st.integers(0, 2), min_size=1))
def test_sequences_are_equal_as_lists_are(one: list[int], other: list[int]) -> None:
    makers = (
        lambda numbers: CompactCells([f"row {number}" for number in numbers]),
        lambda numbers: sequences.Numbered("row ", numbers),
        lambda numbers: Keys.of((bytes([number]) * 32 for number in numbers), len(numbers)),
        lambda numbers: sequences.Repeated(float(numbers[0]), len(numbers)),
    )
    for make in makers:
        ours, theirs = make(one), make(other)
        assert (ours == theirs) == (list(ours) == list(theirs)) == (ours == list(theirs)) == (list(ours) == theirs)
        assert ours == make(one)
        assert ours != tuple(ours)
        assert ours != None  # noqa: E711 - it is asked how they compare
        with pytest.raises(TypeError, match="unhashable"):
            hash(ours)


def test_memory_mapped_rows_are_copied_completely(tmp_path: Path):
    told_rows = [
        {"text": f"text {row}", "label": ["ab"[row % 2]]} | ({"n": row} if row > 5 else {}) for row in range(12)
    ]
    write(tmp_path / "rows.jsonl", told_rows)
    with many():
        given = DataSettings(path=str(tmp_path / "rows.jsonl"))
        rows, again = (read_corpus(given).rows["train"] for _ in range(2))
        copies = [copy.deepcopy(rows), pickle.loads(pickle.dumps(rows))]
    assert rows == again
    assert rows != again.take(range(11))
    for each in copies:
        assert each == rows
        assert rows_told(each) == rows_told(rows)
        assert each.table.columns["n"][0] is MISSING


@pytest.mark.slow
def test_a_memory_mapped_run_gives_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """All that is done for large data alone, done for a small one."""
    tiny_encoder(tmp_path)
    values = {"strategy": "probe", "cache.gib": 0, "tokens.max_length": 8, "decision.unknown": 0.2}
    expected = bits(tmp_path, tmp_path / "few", "pair", **values)
    for module in (compact, tokens, ragged):
        monkeypatch.setattr(module, "_MANY", 0)
    monkeypatch.setattr(sequences, "MANY_ROWS", 1)
    monkeypatch.setattr(batches, "_CHUNK", 5)
    assert bits(tmp_path, tmp_path / "many", "pair", **values) == expected
