"""A corpus of many rows, of which little is in memory, is the corpus of a few in every bit; so are its errors."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlp_transfer.data import sequences
from nlp_transfer.data.compact import CompactCells
from nlp_transfer.data.corpus import divide_corpus, encode_corpus, read_corpus
from nlp_transfer.data.keys import Keys
from nlp_transfer.data.missing import MISSING
from nlp_transfer.data.splits import draw_evenly
from nlp_transfer.errors import UserError
from nlp_transfer.machine import disk
from nlp_transfer.settings import DataSettings
from tests.data.many import few_tries, many, rows_told, texts, write

records = st.fixed_dictionaries(
    {
        "text": texts,
        "label": st.sampled_from("abc"),
        "text_pair": texts,
        "split": st.sampled_from(["train", "train", "train", "dev", "test"]),
        "id": st.integers(0, 1000).map(lambda number: f"row {number}"),
        "weight": st.sampled_from(["1", "0.5", "2"]),
    },
    optional={
        "domain": st.sampled_from(["one", "two"]),
        "other": st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.lists(st.text()),
    },
)
labels = st.sampled_from(
    [
        ("a", "b", "c"),
        (["a"], ["a", "b"], []),
        ({"a": 0.25, "b": 0.75}, {"a": 1.0}, {"b": 1.0, "a": 0.0}),
        (0.5, 1.25, -3.0),
        (1, 2, 2),
    ]
)


def told(path: Path, given: DataSettings) -> Any:
    """Return everything that there is to know of a corpus, or why there is none."""
    try:
        read = read_corpus(given)
        used = divide_corpus(read, given, seed=3)
        corpus = encode_corpus(used, given)
        evenly = list(draw_evenly(read.rows["train"], 3, seed=5, problem=read.task.problem))
    except UserError as error:
        return str(error)
    splits = {
        name: [
            *(None if part is None else list(part) for part in (of.texts, of.pairs, of.ids, of.domains, of.keys)),
            (of.targets.tolist(), of.targets.dtype, of.weights.tolist()),
        ]
        for name, of in corpus.splits.items()
    }
    foreign = {name: [list(of.texts), of.pairs and list(of.pairs)] for name, of in corpus.foreign.items()}
    rows = [{name: rows_told(part) for name, part in each.rows.items()} for each in (read, used)]
    return corpus.fingerprint, corpus.notes, corpus.task, corpus.roles, splits, foreign, rows, evenly


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@few_tries
@given(
    st.lists(records, min_size=6, max_size=30),
    st.sets(st.sampled_from(["text_pair", "split", "id", "weight", "domain", "other"])),
    labels,
    st.fixed_dictionaries(
        {"empty": st.sampled_from(["drop", "drop", "keep", "error"])},
        optional={
            "limit": st.tuples(st.sampled_from(["train_limit", "per_class"]), st.integers(1, 6)),
            "validation_limit": st.integers(1, 3),
            "unseen": st.just("ignore"),
        },
    ),
    st.sampled_from([1, 5, 8]),
)
def test_a_memory_mapped_corpus_equals_one_in_memory(
    tmp_path: Path,
    kind: str,
    rows: list[dict[str, Any]],
    without: set[str],
    names: tuple[Any, ...],
    options: dict[str, Any],
    enough: int,
) -> None:
    rows = [{name: cell for name, cell in row.items() if name not in without} for row in rows]
    if kind != "csv":
        rows = [row | {"label": names["abc".index(row["label"])]} for row in rows]
    path = tmp_path / f"rows.{kind}"
    write(path, rows)
    given = DataSettings(path=str(path), **options | dict([options.pop("limit")] if "limit" in options else []))
    expected = told(path, given)
    with many(enough):
        assert told(path, given) == expected


def test_many_rows_are_memory_mapped(tmp_path: Path):
    write(tmp_path / "rows.csv", [{"text": f"text {row}", "label": "ab"[row % 2]} for row in range(20)])
    with many():
        rows = read_corpus(DataSettings(path=str(tmp_path / "rows.csv"))).rows["train"]
        taken = rows.take(sequences.integers_of(range(0, 20, 2), 10))
    for part in (rows, taken):
        assert isinstance(part.texts, CompactCells)
        assert not isinstance(part.ids, list)
        assert isinstance(part.keys._hashes.base, np.memmap)
    with many():
        behind = rows.followed_by(taken, "again-")
        few = sequences.concatenated(["first"], rows.texts)
    assert list(behind.texts) == [*rows.texts, *taken.texts]
    assert isinstance(few, CompactCells)
    assert few == ["first", *rows.texts]
    assert list(sequences.concatenated([0.5], sequences.Repeated(1.0, 2))) == [0.5, 1.0, 1.0]
    assert list(behind.ids) == [*rows.ids, *(f"again-{row}" for row in range(1, 11))]
    assert behind.where(21) == rows.where(2)


@few_tries
@given(st.lists(st.tuples(st.sampled_from([b"", b"a", b"b"]), st.sampled_from([b"c", b"d"])), max_size=40))
def test_keys_are_compared_by_all_bytes(parts: list[tuple[bytes, bytes]]) -> None:
    """Including keys with a common beginning, which real hashes do not have."""
    hashes = [(begin.ljust(24, b"\0") + end).ljust(32, b"\0") for begin, end in parts]
    made = Keys.of(iter(hashes), len(hashes))
    order, new = made.order()
    assert (list(made), [made[row] for row in range(len(made))], made[::-1]) == (hashes, hashes, hashes[::-1])
    assert order.tolist() == sorted(range(len(hashes)), key=lambda row: hashes[row])
    assert new.tolist() == [not place or hashes[order[place - 1]] != hashes[row] for place, row in enumerate(order)]
    assert made.firsts().tolist() == [hashes.index(each) for each in hashes]
    half = len(hashes) // 2
    ours, theirs = made.take(range(half)), made.take(range(half, len(hashes)))
    assert theirs.among(ours).tolist() == [each in hashes[:half] for each in hashes[half:]]


plain = st.none() | st.text() | st.integers() | st.booleans() | st.floats()
nested = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.text(), inner, max_size=2)
        | st.dictionaries(st.integers(), inner, max_size=1)
        | st.tuples(inner)
    ),
    max_leaves=4,
)
cells = st.just(MISSING) | st.just(["\ud83d\ude00"]) | nested


@few_tries
@given(st.lists(cells), st.lists(cells), st.data())
def test_compact_cells_equal_the_originals(first: list[Any], more: list[Any], data: st.DataObject) -> None:
    with many():
        made = CompactCells(first)
        made.extend(iter(more))
    whole = [*first, *more]
    rows = data.draw(st.lists(st.integers(0, len(whole) - 1))) if whole else []
    filled = ["text" if cell is None or cell is MISSING else cell for cell in whole]
    for ours, theirs in (
        (made, whole),
        ([made[row] for row in rows], [whole[row] for row in rows]),
        (made.take(rows), [whole[row] for row in rows]),
        (made.filled("text"), filled),
    ):
        assert list(map(repr, ours)) == list(
            map(repr, theirs)
        )  # which tells 1, 1.0, True, nan, tuples and orders apart


def test_values_stay_in_memory_if_the_disk_is_full(monkeypatch: pytest.MonkeyPatch):
    parts = [np.arange(count, dtype=np.int64) for count in (0, 3, 200, 1, 5000, 2)]
    rooms = iter([True, False, True, True, False])

    def fallocate(*_: Any) -> None:
        if not next(rooms, False):
            raise OSError("no room")

    allocate = disk.os.posix_fallocate
    for full in (False, True):
        made = disk.Scratch(np.int64, many=1)
        if full:
            monkeypatch.setattr(disk.os, "posix_fallocate", lambda *of: (fallocate(), allocate(*of)))
        for number, part in enumerate(parts):
            before = made.values
            made.append(part)
            assert np.array_equal(before, np.concatenate(parts[:number] or [before]))
        assert np.array_equal(made.values, np.concatenate(parts))


def test_a_key_is_a_hash() -> None:
    made = Keys.of((sha256(bytes([row])).digest() for row in range(5)), 5)
    assert [len(key) for key in made] == [32] * 5
