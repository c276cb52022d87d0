"""Prediction of files streams chunks through a saved model."""

from __future__ import annotations

import csv
import io
import json
import sys
from itertools import combinations
from pathlib import Path

import pytest

from nlp_transfer.cli import main
from nlp_transfer.data.table import Table
from nlp_transfer.data.task import Task
from nlp_transfer.decision.labelling import Prediction
from nlp_transfer.predicting.writers import DelimitedWriter
from tests.place import furnish

ROWS, CHUNK = 1_000, 50


class Endless(io.RawIOBase):
    """Standard input that notes how many rows are on their way whenever it is read."""

    def __init__(self, written: Written) -> None:
        super().__init__()
        self.given, self.most, self.written = 0, 0, written

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        if self.given == ROWS:
            return 0
        line = b"text\n" if not self.given else f"my card has not arrived {self.given}\n".encode()
        self.given += 1
        self.most = max(self.most, self.given - self.written.lines)
        buffer[: len(line)] = line
        return len(line)


class Written(io.StringIO):
    """Standard output that counts its lines."""

    lines = 0

    def write(self, text: str) -> int:
        self.lines += text.count("\n")
        return super().write(text)


def test_several_labels_in_a_cell_are_separable():
    """Whatever they hold, every set of them is a cell of its own."""
    for labels, joined in ((("a", "b", 'c"'), True), (("a|b", "a", "b", 'c"'), False)):
        sets = [list(each) for size in range(len(labels) + 1) for each in combinations(labels, size)]
        out = io.StringIO()
        task = Task("multi_label", labels, False, coverage=0.9)
        likely = dict.fromkeys(labels, 0.5)
        answers = [Prediction(each, likely, set=each) for each in sets]
        table = Table({"text": [f"row {row}" for row in range(len(sets))]}, "rows.csv", list(range(len(sets))))
        DelimitedWriter(out, task, ",").write(table, answers)
        cells = list(csv.DictReader(io.StringIO(out.getvalue())))
        for column in ("prediction", "set"):
            found = [row[column] for row in cells]
            assert len(set(found)) == len(sets)
            read = [each.split("|") if each else [] for each in found] if joined else [*map(json.loads, found)]
            assert read == sets


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "text"])
def test_at_most_two_chunks_are_in_flight(tmp_path: Path, monkeypatch, kind: str):
    folder = furnish(tmp_path)
    words = ["data=files", f"data.path={folder / 'data'}", "encoder=custom", f"encoder.name={folder / 'tiny-bert'}"]
    words += ["strategy=probe", "evaluation.resamples=20", "verify=false", f"output={folder / 'runs'}"]
    assert main(["adapt", *words]) == 0
    written = Written()
    rows = Endless(written)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(rows, buffer_size=64)))
    monkeypatch.setattr(sys, "stdout", written)
    run = str(next((folder / "runs").iterdir()))
    assert main(["predict", run, f"predict.format={kind}", f"predict.chunk_rows={CHUNK}"]) == 0
    lines = written.getvalue().splitlines()
    assert len(lines) == ROWS + (kind == "text")
    assert [line.split(",")[0] for line in lines[-2:]] == [f"my card has not arrived {n}" for n in (ROWS - 2, ROWS - 1)]
    assert rows.most <= 2 * CHUNK
