"""A saved model as a function from texts to labels; rows stream through, order kept, memory flat."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from accelerate import Accelerator

from nlp_transfer import artefact
from nlp_transfer.checks import check_predict
from nlp_transfer.data import tokens as token_ids
from nlp_transfer.data.batches import Columns, Padding
from nlp_transfer.data.columns import find_column
from nlp_transfer.data.delimited import DELIMITERS, cell_writer, delimiter_of
from nlp_transfer.data.files import stream_format, stream_rows
from nlp_transfer.data.hints import typed
from nlp_transfer.data.jsonl import json_line
from nlp_transfer.data.paths import expanded
from nlp_transfer.data.rows import read_texts
from nlp_transfer.data.table import MISSING, Table
from nlp_transfer.data.task import Task
from nlp_transfer.encoder.anatomy import dissect, unwrapped
from nlp_transfer.encoder.packed import pack_if_wanted, unequal_rows
from nlp_transfer.errors import UserError, did_you_mean
from nlp_transfer.exporting.exported import Exported
from nlp_transfer.labelling import Labeller, Prediction
from nlp_transfer.places import FIGURES, model_folder
from nlp_transfer.record import Record, read_record
from nlp_transfer.rules import needs_features
from nlp_transfer.settings import ColumnSettings, Settings, TrackingSettings
from nlp_transfer.training import inference
from nlp_transfer.training.bfloat16 import computes_in_bfloat16
from nlp_transfer.training.device import fitting, make_accelerator
from nlp_transfer.verb_settings import PredictSettings

_JOINED = "|"  # between the labels of a cell


class Predictor(Labeller):
    """A saved model, loaded once."""

    def __init__(self, folder: Path, *, precision: str = "auto", batch_tokens: int = 4096) -> None:
        self.folder = model_folder(Path(folder))
        self.record = read_record(self.folder)
        self.batch_tokens = batch_tokens
        self._one_at_a_time = threading.Lock()
        self.accelerator: Accelerator = make_accelerator(precision, TrackingSettings(), self.folder)
        self.model, self.tokenizer = artefact.load_model(self.folder, self.record)
        self.detector = artefact.load_detector(self.folder, self.record)
        self.model.to(self.accelerator.device)
        anatomy = dissect(unwrapped(self.model), segments="token_type_ids" in self.tokenizer.model_input_names)
        # What the training demanded is a wish here.
        wish = False if self.record.encoder.packed is False else None
        encoder = dataclasses.replace(self.record.encoder, packed=wish)
        rows = unequal_rows(self.model, self.tokenizer)
        self.accelerator, _ = fitting(self.accelerator, self.model, rows, "auto", TrackingSettings(), self.folder)
        half = self.accelerator.mixed_precision != "no"
        places_a_token, _ = pack_if_wanted(self.model, anatomy, self.tokenizer, encoder, half=half)
        self.padding = Padding.of(self.tokenizer, places_a_token=places_a_token)
        if computes_in_bfloat16(self.accelerator):
            self.model = inference.answering_copy(self.model)

    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray:
        """Return the model's raw outputs, float32 (texts, outputs)."""
        return self._run(texts, pairs, ("logits",))

    def answers(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the logits and, where a rule asks for them, the features of one and the same pass."""
        if not needs_features(self.record):
            return self.logits(texts, pairs), None
        return self.logits_and_features(texts, pairs)

    def logits_and_features(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the raw outputs and, of the same pass, what enters the output layer, float32 (texts, width)."""
        both = self._run(texts, pairs, ("logits", "features"))
        outputs = self.record.task.outputs
        return both[:, :outputs], both[:, outputs:]

    def _run(self, texts: Sequence[str], pairs: Sequence[str] | None, want: tuple[str, ...]) -> np.ndarray:
        self.check_pairs(pairs)
        spec = self.record.tokens
        with self._one_at_a_time:  # the tokenizer is told how to cut, and the output layer what it reads
            encoded = token_ids.encode(self.tokenizer, texts, pairs, spec, max_length=spec.limit)
            columns = Columns(encoded, np.zeros(len(texts), np.float32), np.ones(len(texts), np.float32))
            return inference.run(
                self.accelerator,
                self.model,
                columns,
                padding=self.padding,
                most_tokens=self.batch_tokens,
                want=want,
            )


def opened(folder: Path, settings: Settings | None = None) -> Labeller:
    """Return the model of a folder, saved or exported.

    Args:
        folder: of a run, of its model, or what `nlp-transfer export` has written.
        settings: `training.precision` (that of an exported model was chosen then), `evaluation.batch_tokens` and the
            group `decision` count; None: the defaults, by which a model decides as it was saved to.

    Raises:
        UserError: if the folder holds no model of ours, or for a rule that its task has no use for.
    """
    settings = settings or Settings()
    precision, tokens = settings.training.precision, settings.evaluation.batch_tokens
    exported = (folder / FIGURES).is_file()
    model: Labeller = (
        Exported(folder, batch_tokens=tokens)
        if exported
        else Predictor(folder, precision=precision, batch_tokens=tokens)
    )
    return model.deciding_by(settings.decision)


def predict_file(
    predictor: Labeller,
    settings: PredictSettings,
    columns: ColumnSettings,
    *,
    encoding: str,
    delimiter: str | None,
    overwrite: bool = False,
) -> int:
    """Read rows, write the same rows with their prediction; return how many.

    The output has the input's format, delimiter and columns, then `prediction` and the probabilities: one column a
    label (``p(label)``) in CSV and TSV, one object in JSONL. What the rules of the model say comes between them, of a
    model that has the rule: `abstains` and `unknown` (true or false), `set` (labels), and for a number `low` and
    `high`. Several labels are one cell of a CSV, joined by |, or a JSON list where a label of the task contains that.
    Lines of text become CSV.

    Raises:
        UserError: for unreadable rows (file:line), a missing column, or an output that is there already, unless
            `overwrite` says that it may be replaced; the input itself never is.
    """
    check_predict(settings, overwrite=overwrite)
    kind = stream_format(settings.input, settings.format)
    rows = stream_rows(
        settings.input, format=kind, encoding=encoding, delimiter=delimiter, chunk_rows=settings.chunk_rows
    )
    mark = DELIMITERS.get(kind, ",") if delimiter is None or kind == "text" else delimiter_of(delimiter)
    count = 0
    with _output(settings.output) as out:
        writer = _Writer(out, kind, mark, predictor.record.task)
        for table in rows:
            writer.check(table)
            texts, pairs = _inputs(table, predictor.record, columns, kind)
            writer.write(table, predictor.predict(texts, pairs))
            count += len(texts)
    return count


@contextmanager
def _output(name: str) -> Iterator[TextIO]:
    """Open standard output, or a file that takes its name only when it is complete."""
    if name == "-":
        if isinstance(sys.stdout, io.TextIOWrapper):  # rows are UTF-8 with plain line ends, whatever the terminal takes
            sys.stdout.reconfigure(encoding="utf-8", newline="")
        yield sys.stdout
        return
    target = expanded(name).resolve()  # a link stays one
    making = target.with_name(f".making-{target.name}")
    try:
        with making.open("w", encoding="utf-8", newline="") as out:
            yield out
        making.rename(target)
    except OSError as error:
        raise UserError(f"predict.output={name} cannot be written: {error.strerror}") from error
    finally:
        making.unlink(missing_ok=True)


class _Writer:
    """Rows with their predictions in the format they came in."""

    def __init__(self, out: TextIO, kind: str, delimiter: str, task: Task) -> None:
        self.out, self.kind, self.labels = out, kind, task.labels
        ruled = {
            "abstains": task.abstain_below or task.risk,
            "unknown": task.unknown,
            "set": task.coverage and task.problem != "regression",
            "low": task.coverage and task.problem == "regression",
            "high": task.coverage and task.problem == "regression",
        }
        self.ruled = [name for name, rule in ruled.items() if rule]
        figures = ["probabilities"] * bool(task.labels) if kind == "jsonl" else [f"p({label})" for label in task.labels]
        self.added = ["prediction", *self.ruled, *figures]
        self.cells = cell_writer(out, delimiter)
        self.joins = not any(_JOINED in label for label in task.labels)
        self.began = False

    def check(self, table: Table) -> None:
        """Refuse rows that have a column of the output already, before anything of them is written."""
        if taken := [name for name in self.added if name in table.columns]:
            first = next((row for row, cell in enumerate(table.columns[taken[0]]) if cell is not MISSING), 0)
            place = table.where(first) if self.kind == "jsonl" else table.origin
            raise UserError(f"{place} already has a column {taken[0]!r}; rename it first")

    def write(self, table: Table, answers: Sequence[Prediction]) -> None:
        """Write rows and what was predicted for them."""
        names = list(table.columns)
        if self.kind != "jsonl" and not self.began:
            self.cells.writerow([*names, *self.added])
            self.began = True
        for row, answer in zip(_rows(table), answers, strict=True):
            if self.kind == "jsonl":
                cells = (answer.label, *(getattr(answer, name) for name in self.ruled), answer.probabilities)
                extra = dict(zip(self.added, cells, strict=False))
                given = {name: value for name, value in zip(names, row, strict=True) if value is not MISSING}
                self.out.write(json_line(given | extra) + "\n")
                continue
            said = (answer.label, *(getattr(answer, name) for name in self.ruled))
            figures = (f"{answer.probabilities[name]:.6f}" for name in self.labels)
            self.cells.writerow([*row, *map(self._cell, said), *figures])

    def _cell(self, value: Any) -> Any:
        """Return what is said of a row as a cell of a table."""
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, list):
            return _JOINED.join(value) if self.joins else json.dumps(value, ensure_ascii=False)
        return value


def _rows(table: Table) -> Iterator[tuple[Any, ...]]:
    return zip(*table.columns.values(), strict=True)


def _inputs(table: Table, record: Record, columns: ColumnSettings, kind: str) -> tuple[list[str], list[str] | None]:
    """Return the texts of a table, in the columns the model was trained on unless others are named.

    A column that is alone is the text under any name that is known for texts.
    """
    roles = {}
    for role in ("text", "text_pair") if record.task.pair else ("text",):
        chosen = getattr(columns, role)
        wanted = chosen or record.roles.get(role, role)
        alone = len(table.columns) == 1 and not record.task.pair
        if wanted not in table.columns and alone and not chosen:
            wanted = find_column(table, role, None) or wanted
        if wanted not in table.columns:
            name = next(iter(table.columns)) if alone else "..."
            headed = alone and kind in DELIMITERS
            hint = f"; if {name!r} is a text itself, predict.format=text: one text a line, no header" if headed else ""
            raise UserError(
                f"{table.origin} has no column {wanted!r}{did_you_mean(wanted, table.columns)}; its columns are "
                f"{', '.join(table.columns)}: set {typed(f'data.columns.{role}', name)}{hint}"
            )
        roles[role] = wanted
    return read_texts(table, roles)
