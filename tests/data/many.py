"""Corpora that are memory-mapped as if they had many rows, and their rows."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from nlp_transfer.data import compact, files, keys, parquet, sequences
from nlp_transfer.data.rows import Rows

few_tries = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
# Few distinct texts, so that repeats, leaks, conflicts and empty texts are common.
texts = st.sampled_from(["x", "X ", "y", "ß", "SS", "世界 🙂", "a,\n b", " ", "u", "v", "w", "z"])


@contextmanager
def many(rows: int = 1) -> Iterator[None]:
    """So many rows are many, a few of which are read at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequences, "MANY_ROWS", rows)
        patch.setattr(compact, "_MANY", 1)
        for module in (files, parquet):
            patch.setattr(module, "CHUNK_ROWS", 3)
        for module in (keys, compact, sequences):
            patch.setattr(module, "_CHUNK", 2)
        yield


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *([str(row.get(name, "")) for name in columns] for row in rows)])
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        import pyarrow as pa
        import pyarrow.parquet

        told = {name: [row.get(name) for row in rows] for name in columns if name != "other"}
        pyarrow.parquet.write_table(pa.table(told), path)


def rows_told(rows: Rows) -> list[Any]:
    table = {name: list(cells) for name, cells in rows.table.columns.items()}
    seen = [rows.texts, rows.pairs, rows.labels, rows.weights, rows.ids, rows.domains, rows.keys, rows.numbers]
    each = [None if part is None else list(part) for part in seen]
    places = [rows.where(row) for row in range(len(rows))]
    return [*each, table, list(rows.table.lines), places, {name: list(rows.cells(name)) for name in table}]
