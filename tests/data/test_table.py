"""Tables read in parts equal tables read at once, and have the same fingerprint."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import datasets
import numpy as np
import pytest

from nlp_transfer.data import files, parquet, typed
from nlp_transfer.data.corpus import load_corpus
from nlp_transfer.data.files import read_rows
from nlp_transfer.data.missing import MISSING
from nlp_transfer.data.table import Table, from_records, joined
from nlp_transfer.settings import DataSettings

RECORDS = [{"text": "a", "n": 1}, {"n": None, "text": "b"}, {"late": [1], "text": "c"}, {}, {"text": "ü", "more": "x"}]


@pytest.mark.parametrize("count", range(1, 7))
def test_joined_tables_equal_the_whole(count: int):
    whole = from_records(RECORDS, range(2, 7), "rows")
    parts = [
        from_records(RECORDS[start : start + count], range(2 + start, 2 + min(start + count, 5)), "rows")
        for start in range(0, 5, count)
    ]
    found = joined(iter(parts), "rows")
    assert found == whole
    assert list(found.columns) == list(whole.columns)
    assert found.columns["late"] == [MISSING, MISSING, [1], MISSING, MISSING]
    assert parts[0].columns["text"] == [record.get("text", MISSING) for record in RECORDS[:count]]  # as it was
    assert joined([], "rows") == Table({}, "rows", [])


@pytest.mark.parametrize("rows", [0, 1, 7])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_files_read_in_parts_give_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, rows: int):
    path, cells = tmp_path / f"rows.{kind}", [(f"text\n{row}", "ab"[row % 2]) for row in range(rows)]
    if kind == "csv":
        path.write_text("text,label\n" + "".join(f'"{text}",{label}\n' for text, label in cells))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n\n" for text, label in cells))
    else:
        import pyarrow as pa
        import pyarrow.parquet

        columns = {"text": [text for text, _ in cells], "label": [label for _, label in cells]}
        pyarrow.parquet.write_table(pa.table(columns, pa.schema({"text": pa.string(), "label": pa.string()})), path)
    whole = read_rows(path, DataSettings())
    assert len(whole) == rows
    for count in (1, 2, 3):
        for module in (files, parquet):
            monkeypatch.setattr(module, "CHUNK_ROWS", count)
        assert Table(**vars(read_rows(path, DataSettings()))) == whole


def test_a_dataset_is_read_part_by_part(monkeypatch: pytest.MonkeyPatch):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"text": [f"text {row}" for row in range(7)], "label": [0, 1, 1, 0, 1, 0, 0]}
    data = datasets.Dataset.from_dict(rows, features=features)
    whole = typed.from_object(data)["train"]
    for count in (1, 2, 7):
        monkeypatch.setattr(typed, "CHUNK_ROWS", count)
        found = typed.from_object(data)["train"]
        assert found == whole
        assert [found.where(row) for row in range(7)] == [whole.where(row) for row in range(7)]
    assert list(whole.columns["label"]) == [*"abbabaa"]


def test_the_fingerprint_is_the_hash_of_rows_as_json():
    """Runs of earlier versions resume with the same rows."""
    rows = {"train": [("Grüße, 🙂", "a"), ('"quoted"\n', "b")], "validation": [("other", "b")]}
    data = {split: [{"text": text, "label": label} for text, label in part] for split, part in rows.items()}
    digest = hashlib.sha256(json.dumps(["single_label", ["a", "b"]]).encode())
    for split, part in rows.items():
        targets = np.array(["ab".index(label) for _, label in part])
        output = [split, [text for text, _ in part], None, [1.0] * len(part), targets.dtype.str]
        digest.update(json.dumps(output).encode())
        digest.update(targets.tobytes())
    assert load_corpus(DataSettings(), data=data).fingerprint == digest.hexdigest()
