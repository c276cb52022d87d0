"""Rows with what a model said of them, written in the format they came in; a file appears when it is complete."""

from __future__ import annotations

import io
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, TextIO

from nlp_transfer.data.delimited import cell_writer
from nlp_transfer.data.jsonl import json_line
from nlp_transfer.data.missing import MISSING
from nlp_transfer.data.paths import expanded
from nlp_transfer.data.table import Table
from nlp_transfer.data.task import Task
from nlp_transfer.decision.labelling import Prediction
from nlp_transfer.errors import UserError
from nlp_transfer.machine.disk import exclusive, flush, reason

if TYPE_CHECKING:
    import pyarrow as pa

_JOINED = "|"  # between the labels of a cell


class Writer(ABC):
    """Rows and what was predicted for them, one table after the other.

    Attributes:
        labels: of the task.
        ruled: the fields of a prediction that the rules of the model fill.
        added: the columns behind those of the rows: the prediction, what the rules say, and the probabilities.
    """

    def __init__(self, task: Task, *, nested: bool = False) -> None:
        """Learn what is said of a row.

        Args:
            task: of the model.
            nested: whether the probabilities are one cell.
        """
        self.labels = task.labels
        fields = {
            "abstains": task.abstain_below or task.risk,
            "unknown": task.unknown,
            "set": task.coverage and task.problem != "regression",
            "low": task.coverage and task.problem == "regression",
            "high": task.coverage and task.problem == "regression",
        }
        self.ruled = [name for name, rule in fields.items() if rule]
        figures = ["probabilities"] * bool(task.labels) if nested else [f"p({label})" for label in task.labels]
        self.added = ["prediction", *self.ruled, *figures]

    def check(self, table: Table) -> None:
        """Refuse rows that have a column of the output already, before anything of them is written."""
        if taken := [name for name in self.added if name in table.columns]:
            raise UserError(f"{self._place(table, taken[0])} already has a column {taken[0]!r}; rename it first")

    @abstractmethod
    def write(self, table: Table, answers: Sequence[Prediction]) -> None:
        """Write rows and what was predicted for them."""

    def close(self) -> None:  # noqa: B027  # most formats have no end
        """Write what stands behind the last row."""

    def _place(self, table: Table, column: str) -> str:
        return table.origin

    def _said(self, answer: Prediction) -> list[Any]:
        """Return what is said of a row, but for the probabilities."""
        return [answer.label, *(getattr(answer, name) for name in self.ruled)]


class Cells(Writer):
    """Rows of CSV and TSV."""

    def __init__(self, out: TextIO, task: Task, delimiter: str) -> None:
        super().__init__(task)
        self._cells = cell_writer(out, delimiter)
        self._joins = not any(_JOINED in label for label in task.labels)
        self._began = False

    def write(self, table: Table, answers: Sequence[Prediction]) -> None:
        """Write rows, the first ones below a header."""
        if not self._began:
            self._cells.writerow([*table.columns, *self.added])
            self._began = True
        for row, answer in zip(_rows(table), answers, strict=True):
            figures = (f"{answer.probabilities[name]:.6f}" for name in self.labels)
            self._cells.writerow([*row, *map(self._cell, self._said(answer)), *figures])

    def _cell(self, value: Any) -> Any:
        """Return what is said of a row as a cell of a table."""
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, list):
            return _JOINED.join(value) if self._joins else json.dumps(value, ensure_ascii=False)
        return value


class Lines(Writer):
    """Rows of JSON, one object a line."""

    def __init__(self, out: TextIO, task: Task) -> None:
        super().__init__(task, nested=True)
        self._out = out

    def write(self, table: Table, answers: Sequence[Prediction]) -> None:
        """Write rows, each with the keys it had."""
        names = list(table.columns)
        for row, answer in zip(_rows(table), answers, strict=True):
            extra = dict(zip(self.added, [*self._said(answer), answer.probabilities], strict=False))
            given = {name: value for name, value in zip(names, row, strict=True) if value is not MISSING}
            self._out.write(json_line(given | extra) + "\n")

    def _place(self, table: Table, column: str) -> str:
        return table.where(next((row for row, cell in enumerate(table.columns[column]) if cell is not MISSING), 0))


class Columns(Writer):
    """Rows of a Parquet file, whose cells keep their types."""

    def __init__(self, out: BinaryIO, task: Task) -> None:
        super().__init__(task)
        self._out, self._task = out, task
        self._file: Any = None

    def write(self, table: Table, answers: Sequence[Prediction]) -> None:
        """Write rows as they lay in the file they are from, with more columns."""
        import pyarrow as pa
        import pyarrow.parquet

        rows: pa.Table = table.arrow  # type: ignore[attr-defined]  # of `ArrowRows`, which Parquet is read as
        said = [[*self._said(answer), *(answer.probabilities[name] for name in self.labels)] for answer in answers]
        for position, name in enumerate(self.added):
            rows = rows.append_column(name, [pa.array([row[position] for row in said], self._type(name))])
        if self._file is None:
            self._file = pyarrow.parquet.ParquetWriter(self._out, rows.schema)
        self._file.write_table(rows)

    def close(self) -> None:
        """Write what says where in the file everything is."""
        if self._file is not None:
            self._file.close()

    def _type(self, name: str) -> pa.DataType:
        import pyarrow as pa

        if name in ("abstains", "unknown"):
            return pa.bool_()
        if name == "set" or (name == "prediction" and self._task.problem == "multi_label"):
            return pa.list_(pa.string())
        if name == "prediction" and self._task.problem != "regression":
            return pa.string()
        return pa.float64()


def writer_of(out: Any, task: Task, kind: str, delimiter: str) -> Writer:
    """Return what writes rows of a stream format; lines of text become CSV.

    Args:
        out: of `output`.
        task: of the model.
        kind: the format.
        delimiter: between cells.
    """
    if kind == "parquet":
        return Columns(out, task)
    return Lines(out, task) if kind == "jsonl" else Cells(out, task, delimiter)


@contextmanager
def output(name: str, kind: str) -> Iterator[IO[Any]]:
    """Open standard output, or a file that takes its name only when it is complete, and the disk holds it.

    Args:
        name: of the file; ``-``: standard output.
        kind: the stream format; of Parquet bytes are written, else text.

    Raises:
        UserError: if the file cannot be written, or another process is at it.
    """
    if name == "-":
        if isinstance(sys.stdout, io.TextIOWrapper):  # rows are UTF-8 with plain line ends, whatever the terminal takes
            sys.stdout.reconfigure(encoding="utf-8", newline="")
        yield sys.stdout
        return
    target = expanded(name).resolve()  # a link stays one
    making = target.with_name(f".making-{target.name}")
    with ExitStack() as held:
        with _reached(name):
            held.enter_context(exclusive(making, f"predict.output={name}"))
        try:
            file = io.BufferedWriter(_File(making, name))
            with file if kind == "parquet" else io.TextIOWrapper(file, encoding="utf-8", newline="") as out:
                yield out
            with _reached(name):
                flush(making)
                making.rename(target)
        finally:
            making.unlink(missing_ok=True)


class _File(io.FileIO):
    """A new file whose errors name the output, for what is read while it is open has errors of its own."""

    def __init__(self, path: Path, name: str) -> None:
        self._output = name
        with _reached(name):
            super().__init__(path, "w")

    def write(self, data: Any) -> int:
        with _reached(self._output):
            return super().write(data)


@contextmanager
def _reached(name: str) -> Iterator[None]:
    """Turn what the disk of the output says into one sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(f"predict.output={name} cannot be written: {reason(error)}") from error


def _rows(table: Table) -> Iterator[tuple[Any, ...]]:
    return zip(*table.columns.values(), strict=True)
