"""Write rows with their predictions, in the format of the input; a file appears only when it is complete."""

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

_SEPARATOR = "|"  # between the labels of a cell


class Writer(ABC):
    """Writes rows with their predictions, one table after the other.

    Attributes:
        labels: of the task.
        rule_fields: the fields of a prediction that decision rules of the model fill.
        added: the columns added to those of the rows: the prediction, the fields of the rules, and the probabilities.
    """

    def __init__(self, task: Task, *, nested: bool = False) -> None:
        """Determine the columns to add.

        Args:
            task: of the model.
            nested: whether all probabilities are in one field.
        """
        self.labels = task.labels
        fields = {
            "abstains": task.abstain_below or task.risk,
            "unknown": task.unknown,
            "set": task.coverage and task.problem != "regression",
            "low": task.coverage and task.problem == "regression",
            "high": task.coverage and task.problem == "regression",
        }
        self.rule_fields = [name for name, rule in fields.items() if rule]
        figures = ["probabilities"] * bool(task.labels) if nested else [f"p({label})" for label in task.labels]
        self.added = ["prediction", *self.rule_fields, *figures]

    def check(self, table: Table) -> None:
        """Refuse rows that already have a column of the output, before they are written."""
        if existing := [name for name in self.added if name in table.columns]:
            raise UserError(f"{self._place(table, existing[0])} already has a column {existing[0]!r}; rename it first")

    @abstractmethod
    def write(self, table: Table, answers: Sequence[Prediction]) -> None:
        """Write rows with their predictions."""

    def close(self) -> None:  # noqa: B027  # only some formats need it
        """Write what follows the last row."""

    def _place(self, table: Table, column: str) -> str:
        return table.origin

    def _fields(self, answer: Prediction) -> list[Any]:
        """Return the added values of a row, except the probabilities."""
        return [answer.label, *(getattr(answer, name) for name in self.rule_fields)]


class DelimitedWriter(Writer):
    """Writes CSV and TSV."""

    def __init__(self, out: TextIO, task: Task, delimiter: str) -> None:
        super().__init__(task)
        self._cells = cell_writer(out, delimiter)
        self._can_join = not any(_SEPARATOR in label for label in task.labels)
        self._has_header = False

    def write(self, table: Table, answers: Sequence[Prediction]) -> None:
        """Write rows, the first ones below a header."""
        if not self._has_header:
            self._cells.writerow([*table.columns, *self.added])
            self._has_header = True
        for row, answer in zip(_rows(table), answers, strict=True):
            probabilities = (f"{answer.probabilities[name]:.6f}" for name in self.labels)
            self._cells.writerow([*row, *map(self._cell, self._fields(answer)), *probabilities])

    def _cell(self, value: Any) -> Any:
        """Return a value as it is written in a cell."""
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, list):
            return _SEPARATOR.join(value) if self._can_join else json.dumps(value, ensure_ascii=False)
        return value


class JsonLinesWriter(Writer):
    """Writes one JSON object per line."""

    def __init__(self, out: TextIO, task: Task) -> None:
        super().__init__(task, nested=True)
        self._out = out

    def write(self, table: Table, answers: Sequence[Prediction]) -> None:
        """Write rows, each with its own keys."""
        names = list(table.columns)
        for row, answer in zip(_rows(table), answers, strict=True):
            added = dict(zip(self.added, [*self._fields(answer), answer.probabilities], strict=False))
            present = {name: value for name, value in zip(names, row, strict=True) if value is not MISSING}
            self._out.write(json_line(present | added) + "\n")

    def _place(self, table: Table, column: str) -> str:
        return table.where(next((row for row, cell in enumerate(table.columns[column]) if cell is not MISSING), 0))


class ParquetWriter(Writer):
    """Writes Parquet; the columns of the input keep their types."""

    def __init__(self, out: BinaryIO, task: Task) -> None:
        super().__init__(task)
        self._out, self._task = out, task
        self._file: Any = None

    def write(self, table: Table, answers: Sequence[Prediction]) -> None:
        """Write rows of the input with the added columns."""
        import pyarrow as pa
        import pyarrow.parquet

        rows: pa.Table = table.arrow  # type: ignore[attr-defined]  # of `ArrowRows`, as which Parquet is read
        added = [[*self._fields(answer), *(answer.probabilities[name] for name in self.labels)] for answer in answers]
        for position, name in enumerate(self.added):
            rows = rows.append_column(name, [pa.array([row[position] for row in added], self._type(name))])
        if self._file is None:
            self._file = pyarrow.parquet.ParquetWriter(self._out, rows.schema)
        self._file.write_table(rows)

    def close(self) -> None:
        """Write the footer with the metadata."""
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
    """Return the writer of a stream format; lines of text become CSV.

    Args:
        out: opened by `open_output`.
        task: of the model.
        kind: the format.
        delimiter: between cells.
    """
    if kind == "parquet":
        return ParquetWriter(out, task)
    return JsonLinesWriter(out, task) if kind == "jsonl" else DelimitedWriter(out, task, delimiter)


@contextmanager
def open_output(name: str, kind: str) -> Iterator[IO[Any]]:
    """Open standard output, or a file that gets its name only when it is completely on disk.

    Args:
        name: of the file; ``-``: standard output.
        kind: the stream format; binary for Parquet, otherwise text.

    Raises:
        UserError: if the file cannot be written, or another process is writing it.
    """
    if name == "-":
        if isinstance(sys.stdout, io.TextIOWrapper):  # rows are UTF-8 with \n, whatever the terminal uses
            sys.stdout.reconfigure(encoding="utf-8", newline="")
        yield sys.stdout
        return
    target = expanded(name).resolve()  # the target of a symbolic link is replaced, not the link
    making = target.with_name(f".making-{target.name}")
    with ExitStack() as locks:
        with _output_errors(name):
            locks.enter_context(exclusive(making, f"predict.output={name}"))
        try:
            file = io.BufferedWriter(_File(making, name))
            with file if kind == "parquet" else io.TextIOWrapper(file, encoding="utf-8", newline="") as out:
                yield out
            with _output_errors(name):
                flush(making)
                making.rename(target)
        finally:
            making.unlink(missing_ok=True)


class _File(io.FileIO):
    """A new file whose errors name the output, to tell them from errors of the input that is read meanwhile."""

    def __init__(self, path: Path, name: str) -> None:
        self._output = name
        with _output_errors(name):
            super().__init__(path, "w")

    def write(self, data: Any) -> int:
        with _output_errors(self._output):
            return super().write(data)


@contextmanager
def _output_errors(name: str) -> Iterator[None]:
    """Turn errors of the output's disk into one sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(f"predict.output={name} cannot be written: {reason(error)}") from error


def _rows(table: Table) -> Iterator[tuple[Any, ...]]:
    return zip(*table.columns.values(), strict=True)
