"""Files of any length are labelled in flat memory, appear whole, and are the same however many processes do it."""

from __future__ import annotations

import errno
import io
import json
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nlp_transfer.cli import main
from nlp_transfer.data.task import Task
from nlp_transfer.data.textfile import decoded_lines
from nlp_transfer.decision.labelling import Labeller, Prediction
from nlp_transfer.errors import UserError
from nlp_transfer.predicting.predict import predict_file
from nlp_transfer.settings import ColumnSettings
from nlp_transfer.terminal.console import Screen
from nlp_transfer.verb_settings import PredictSettings
from tests.launched import ended, ranks
from tests.place import furnish
from tests.warm import Warm

TASK = Task("single_label", ("even", "odd"), pair=False)


class Parity(Labeller):
    """Says of a text that ends in a number whether that is even, as an empty one is, and fails before so many texts."""

    def __init__(self, task: Task = TASK, fails_at: int | None = None) -> None:
        self.record: Any = SimpleNamespace(task=task, roles={"text": "text"})
        self.answered, self.fails_at = 0, fails_at

    def logits(self, texts, pairs=None) -> np.ndarray:
        self.answered += len(texts)
        if self.fails_at is not None and self.answered > self.fails_at:
            raise KeyboardInterrupt
        return np.array([[0.5, int((text.split() or [0])[-1]) % 2] for text in texts], np.float32)

    def to_predictions(self, logits, features=None) -> list[Prediction]:
        names = [self.record.task.labels[row] for row in logits.argmax(1)]
        several = self.record.task.problem == "multi_label"
        return [Prediction([name] if several else name, {"even": 0.25, "odd": 0.75}) for name in names]


TEXTS = ["text 1", "text 2", "text 3"]


@pytest.mark.parametrize(
    "column",
    [
        tuple,
        np.array,
        lambda texts: np.array(texts, object),
        lambda texts: pd.Series(texts, index=[7, 7, 3][: len(texts)]),
        lambda texts: pd.Series(texts, dtype="string"),
        lambda texts: datasets.Dataset.from_dict({"text": texts})["text"],
        lambda texts: (text for text in texts),
    ],
    ids=["tuple", "array", "objects", "series", "strings", "dataset", "generator"],
)
@pytest.mark.parametrize("texts", [TEXTS, []], ids=["texts", "none"])
def test_predictions_have_the_order_of_the_texts_in_any_container(column, texts: list[str]):
    assert Parity().predict(column(texts)) == Parity().predict(texts)


@pytest.mark.parametrize(
    ("texts", "error"),
    [
        ("text 1", "takes a list of texts; put the one text into a list"),
        (None, "not a NoneType"),
        ({"text": TEXTS}, "not a dict"),
        (set(TEXTS), "not a set"),
        (pd.DataFrame({"text": TEXTS}), "one column of a table, not a DataFrame"),
        (np.array([TEXTS]), "not a ndarray"),
        ([*TEXTS, None], r"texts\[3\]: 'None' is of type NoneType"),
        (pd.Series([*TEXTS, None], dtype="string"), r"texts\[3\]: '<NA>' is of type NAType"),
        ([*TEXTS, float("nan")], r"texts\[3\]: 'nan' is of type float"),
        ([("text 1", "text 2")], r"texts\[0\]: .* is of type tuple"),
        (["text \ud83d"], r"texts\[0\]: half of a surrogate pair"),
    ],
)
def test_invalid_texts_are_refused_by_position(texts: Any, error: str):
    with pytest.raises(UserError, match=error):
        Parity().predict(texts)


def test_pairs_need_as_many_second_texts():
    with pytest.raises(UserError, match="3 texts and 2 pairs"):
        Parity(Task("single_label", ("even", "odd"), pair=True)).predict(TEXTS, TEXTS[:2])


def write(path: Path, rows: int) -> Path:
    numbers = range(rows)
    if path.suffix == ".csv":
        path.write_text("text,n\n" + "".join(f"text number {n},{n}\n" for n in numbers))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": f"text number {n}", "n": n}) + "\n" for n in numbers))
    else:
        kinds = pa.schema({"text": pa.large_string(), "n": pa.uint8(), "parts": pa.list_(pa.float32())})
        cells = {"text": [f"text number {n}" for n in numbers], "n": [n % 256 for n in numbers]}
        columns = cells | {"parts": [[n / 2] for n in numbers]}
        pq.write_table(pa.table(columns, kinds), path, row_group_size=max(1, rows // 3))
    return path


def label(source: Path, output: Path, model: Labeller | None = None, *, chunk: int = 7, **more: Any) -> int:
    settings = PredictSettings(input=str(source), output=str(output), chunk_rows=chunk)
    given = {"encoding": "utf-8", "delimiter": None} | more
    return predict_file(model or Parity(), settings, ColumnSettings(), **given)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_file_does_not_depend_on_the_chunk_size(tmp_path: Path, kind: str):
    source = write(tmp_path / f"rows.{kind}", 50)
    outputs = [tmp_path / f"{chunk}.{kind}" for chunk in (1, 7, 50, 1000)]
    assert [label(source, path, chunk=int(path.stem)) for path in outputs] == [50] * 4
    if kind == "parquet":
        assert all(pq.read_table(path).equals(pq.read_table(outputs[0])) for path in outputs)
    else:
        assert len({path.read_bytes() for path in outputs}) == 1


@pytest.mark.parametrize("chunk", [1, 2, 100])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_empty_rows_are_labelled_and_reported(tmp_path: Path, kind: str, chunk: int):
    messages, source = [], write(tmp_path / f"rows.{kind}", 5)
    screen = Screen(quiet=False, on_message=messages.append)
    assert label(source, tmp_path / f"all.{kind}", chunk=chunk, screen=screen) == 5
    assert not messages
    source.write_text(source.read_text().replace("text number 1", "  ").replace("text number 4", ""))
    assert label(source, tmp_path / f"out.{kind}", chunk=chunk, screen=screen) == 5
    line = 3 if kind == "csv" else 2
    assert messages == [f"2 of 5 rows have nothing to read, first {source}:{line}, and were labelled like the rest"]


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_missing_keys_do_not_depend_on_the_chunk_size(tmp_path: Path, chunk: int):
    given = [{"text": "row 1", "n": 1}, {"n": 2}, {"text": "row 3"}, {"m": 4, "n": 4}, {"m": 5}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    assert label(tmp_path / "rows.jsonl", tmp_path / "out.jsonl", chunk=chunk) == len(given)
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    message = [row.pop("prediction") for row in written]
    assert message == ["odd", "even", "odd", "even", "even"]
    assert written == [row | {"probabilities": {"even": 0.25, "odd": 0.75}} for row in given]


@pytest.mark.parametrize("problem", ["single_label", "multi_label"])
def test_cells_of_a_parquet_file_keep_their_types(tmp_path: Path, problem: str):
    source = write(tmp_path / "rows.parquet", 20)
    label(source, tmp_path / "out.parquet", Parity(Task(problem, TASK.labels, pair=False)))
    before, after = (pq.read_table(path) for path in (source, tmp_path / "out.parquet"))
    assert after.select(before.column_names).equals(before)
    assert after.column_names == [*before.column_names, "prediction", "p(even)", "p(odd)"]
    expected = [("odd" if n % 2 else "even") for n in range(20)]
    message = after["prediction"].to_pylist()
    assert message == ([[name] for name in expected] if problem == "multi_label" else expected)
    assert after["p(odd)"].to_pylist() == [0.75] * 20


def test_a_parquet_file_without_rows_gives_one_without_rows(tmp_path: Path):
    source = write(tmp_path / "rows.parquet", 0)
    assert label(source, tmp_path / "out.parquet") == 0
    assert pq.read_table(tmp_path / "out.parquet").column_names[-3:] == ["prediction", "p(even)", "p(odd)"]


def test_invalid_parquet_files_are_refused(tmp_path: Path):
    source = tmp_path / "rows.parquet"
    source.write_text("text\ngood\n")
    with pytest.raises(UserError, match=r"rows\.parquet cannot be read as Parquet"):
        label(source, tmp_path / "out.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_an_interrupted_output_has_no_final_name(tmp_path: Path, kind: str):
    source, out = write(tmp_path / f"rows.{kind}", 50), tmp_path / f"out.{kind}"
    label(source, tmp_path / f"whole.{kind}")
    with pytest.raises(KeyboardInterrupt):
        label(source, out, Parity(fails_at=30))
    assert not out.exists()
    (tmp_path / f".making-out.{kind}").write_bytes(b"what a process that was killed has left\n" * 99)
    label(source, out)
    assert out.read_bytes() == (tmp_path / f"whole.{kind}").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        label(source, out, Parity(fails_at=30), overwrite=True)
    assert out.read_bytes() == (tmp_path / f"whole.{kind}").read_bytes()
    assert not list(tmp_path.glob(".making-*"))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_second_writer_of_one_file_is_refused(tmp_path: Path, kind: str):
    source, out = write(tmp_path / f"rows.{kind}", 50), tmp_path / f"out.{kind}"
    label(source, tmp_path / f"whole.{kind}")
    refused = []

    class Meanwhile(Parity):
        def logits(self, texts, pairs=None) -> np.ndarray:
            with pytest.raises(UserError, match="is being written by another process; wait for it") as messages:
                label(source, out)
            refused.append(messages)
            return super().logits(texts, pairs)

    (tmp_path / f".making-out.{kind}.lock").write_text("of a process that was killed")
    label(source, out, Meanwhile())
    assert len(refused) == 8
    assert out.read_bytes() == (tmp_path / f"whole.{kind}").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.{kind}" for name in ("rows", "whole", "out")}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("rows", [9, 2000])  # that are written at the end, and on the way
def test_a_full_disk_is_reported_for_the_output(tmp_path: Path, kind: str, rows: int):
    source, out = write(tmp_path / f"rows.{kind}", rows), tmp_path / f"out.{kind}"
    (tmp_path / f".making-out.{kind}").symlink_to("/dev/full")
    with pytest.raises(UserError, match=rf"output=.*out\.{kind} cannot be written: No space left on device"):
        label(source, out)
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


def test_model_errors_are_not_attributed_to_the_output(tmp_path: Path):
    class Gone(Parity):
        def logits(self, texts, pairs=None) -> np.ndarray:
            raise OSError(errno.ESTALE, "the model is gone")

    with pytest.raises(OSError, match="the model is gone"):
        label(write(tmp_path / "rows.csv", 3), tmp_path / "out.csv", Gone())


@pytest.mark.parametrize("whole", [0, 2])
def test_read_errors_are_reported_for_the_input(whole: int):
    class Broken(io.RawIOBase):
        parts = [b"text\n", b"good\n"][:whole]

        def readable(self) -> bool:
            return True

        def readinto(self, into: Any) -> int:
            if not self.parts:
                raise OSError(errno.EIO, "Input/output error")
            part = self.parts.pop(0)
            into[: len(part)] = part
            return len(part)

    with pytest.raises(UserError, match=rf"^rows\.csv cannot be read beyond line {whole}: Input/output error$"):
        list(decoded_lines(Broken(), encoding="utf-8", origin="rows.csv"))


@pytest.mark.parametrize(
    "kind", [*(pytest.param(each, marks=pytest.mark.slow) for each in ("csv", "jsonl")), "parquet"]
)
def test_memory_depends_on_the_chunk_size_only(tmp_path: Path, kind: str):
    """Eight times as many rows take the memory of the chunk that is on its way, not theirs."""
    peaks = []
    label(write(tmp_path / f"0.{kind}", 100), tmp_path / f"0-out.{kind}")  # what is imported and kept for good
    for rows in (1_000, 8_000):
        source = write(tmp_path / f"{rows}.{kind}", rows)
        tracemalloc.start()
        arrow = pa.total_allocated_bytes()
        label(source, tmp_path / f"{rows}-out.{kind}", chunk=100)
        peaks.append(tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() - arrow)
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 100_000  # bytes; the rows alone are 400,000 more


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict.format=parquet"], "cannot be read from standard input"),
        (["rows.parquet"], "set predict.output=FILE.parquet"),
    ],
)
def test_parquet_is_not_for_streams(tmp_path: Path, monkeypatch, capfd, words: list[str], message: str):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "rows.parquet", 3)
    (tmp_path / "model").mkdir()
    assert main(["predict", "model", *words]) == 2
    assert message in capfd.readouterr().err


@pytest.mark.parametrize(
    ("source", "output", "better"),
    [
        ("rows.csv", "out.jsonl", "out.csv"),
        ("rows.csv", "out.PARQUET", "out.csv"),
        ("rows.jsonl", "out.csv", "out.jsonl"),
        ("rows.jsonl", "out.json", "out.jsonl"),
        ("rows.parquet", "out.csv", "out.parquet"),
        ("rows.parquet", "out.jsonl", "out.parquet"),
    ],
)
def test_an_output_name_of_another_format_is_refused(tmp_path: Path, source: str, output: str, better: str):
    with pytest.raises(UserError, match=rf"{output}: rows are written .* name it .*{better}$"):
        label(write(tmp_path / source, 3), tmp_path / output)
    assert [path.name for path in tmp_path.iterdir()] == [source]


@pytest.mark.parametrize("output", ["out.csv", "out.tsv", "out.txt", "out", "out.labelled"])
def test_an_output_name_without_a_format_is_accepted(tmp_path: Path, output: str):
    label(write(tmp_path / "rows.csv", 3), tmp_path / output)
    assert (tmp_path / output).read_text().startswith("text,n,prediction")


def test_several_processes_have_no_standard_input(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="standard input cannot be read by several processes"):
        label(Path("-"), Path("out.csv"))


@pytest.mark.slow
def test_two_processes_write_the_file_of_one(running: Warm, tmp_path: Path, capfd):
    folder = furnish(tmp_path)
    words = ["data=files", f"data.path={folder / 'data'}", "encoder=custom", f"encoder.name={folder / 'tiny-bert'}"]
    words += ["strategy=probe", "evaluation.resamples=20", "verify=false", f"output={folder / 'runs'}"]
    assert main(["adapt", *words, "decision.unknown=0.2", "training.precision=fp32"]) == 0
    run = str(next((folder / "runs").iterdir()))
    exported = str(tmp_path / "exported")
    assert main(["export", run, "export.format=onnx", f"export.output={exported}", "decision.unknown=0"]) == 0
    # Seven chunks for two; no row; one chunk, and a rank without any, by a model that computes without torch.
    for kind, rows, model in (("parquet", 25, run), ("csv", 0, run), ("csv", 3, exported)):
        source = write(tmp_path / f"rows.{kind}", rows)
        outputs = [tmp_path / f"{rows}-{processes}.{kind}" for processes in (1, 2)]
        words = ["predict", model, str(source), "predict.chunk_rows=4", "training.precision=fp32"]
        one, two = ([*words, f"predict.output={path}"] for path in outputs)
        assert main(one) == 0
        statuses, message = ended(ranks(running, two))
        assert statuses == [0, 0], message
        assert outputs[0].read_bytes() == outputs[1].read_bytes()
