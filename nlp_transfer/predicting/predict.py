"""Predict with a saved model: texts, and files of any length in constant memory."""

from __future__ import annotations

import copy
import dataclasses
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import Self

import numpy as np
from accelerate import Accelerator

from nlp_transfer.artefact import folder as artefact
from nlp_transfer.artefact.places import FIGURES, model_folder
from nlp_transfer.artefact.record import Record, read_record
from nlp_transfer.data import tokens as token_ids
from nlp_transfer.data.batches import Columns, Padding
from nlp_transfer.data.columns import find_column
from nlp_transfer.data.delimited import DELIMITERS, delimiter_of
from nlp_transfer.data.files import opened as opened_file
from nlp_transfer.data.files import stream_format, stream_rows
from nlp_transfer.data.hints import shell_word
from nlp_transfer.data.rows import blank_rows, read_texts
from nlp_transfer.data.table import Table
from nlp_transfer.decision.labelling import Labeller
from nlp_transfer.decision.rules import needs_features, unreachable_risk
from nlp_transfer.encoder.anatomy import dissect, unwrapped
from nlp_transfer.encoder.compatibility import min_tokens
from nlp_transfer.encoder.packed import pack_if_wanted, unequal_rows
from nlp_transfer.errors import UserError, did_you_mean
from nlp_transfer.machine.launch import is_main
from nlp_transfer.predicting.checks import check_predict
from nlp_transfer.predicting.distributed import Chunk, predict_chunks
from nlp_transfer.predicting.exported import Exported
from nlp_transfer.predicting.progress import RowProgress
from nlp_transfer.predicting.writers import open_output, writer_of
from nlp_transfer.settings import ColumnSettings, Settings, TrackingSettings
from nlp_transfer.terminal.console import Screen
from nlp_transfer.training import inference
from nlp_transfer.training.bfloat16 import computes_in_bfloat16
from nlp_transfer.training.device import make_accelerator, with_supported_precision
from nlp_transfer.verb_settings import PredictSettings


class Predictor(Labeller):
    """A saved model, loaded once."""

    def __init__(self, folder: Path, *, precision: str = "auto", batch_tokens: int = 4096) -> None:
        self.folder = model_folder(Path(folder))
        self.record = read_record(self.folder)
        self.batch_tokens = batch_tokens
        self._among_ranks = True
        self._lock = threading.Lock()
        self.accelerator: Accelerator = make_accelerator(precision, TrackingSettings(), self.folder)
        self.model, self.tokenizer = artefact.load_model(self.folder, self.record)
        self.detector = artefact.load_detector(self.folder, self.record)
        self.model.to(self.accelerator.device)
        anatomy = dissect(unwrapped(self.model), segments="token_type_ids" in self.tokenizer.model_input_names)
        # Packing that the training required is only a preference here: another machine may not support it.
        packed = False if self.record.encoder.packed is False else None
        encoder = dataclasses.replace(self.record.encoder, packed=packed)
        rows = unequal_rows(self.model, self.tokenizer)
        self.accelerator, _ = with_supported_precision(
            self.accelerator, self.model, rows, "auto", TrackingSettings(), self.folder
        )
        half = self.accelerator.mixed_precision != "no"
        positions_per_token, _ = pack_if_wanted(self.model, anatomy, self.tokenizer, encoder, half=half)
        least = min_tokens(unwrapped(self.model))
        self.padding = Padding.of(self.tokenizer, positions_per_token=positions_per_token, least=least)
        if computes_in_bfloat16(self.accelerator):
            self.model = inference.inference_copy(self.model)

    def alone(self) -> Self:
        """Return the same model for predictions on this rank alone, without the other ranks."""
        other = copy.copy(self)
        other._among_ranks = False
        return other

    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray:
        """Return the logits, float32 (texts, outputs)."""
        return self._run(texts, pairs, ("logits",))

    def answers(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the logits and, if a decision rule needs them, the features of the same forward pass."""
        if not needs_features(self.record):
            return self.logits(texts, pairs), None
        return self.logits_and_features(texts, pairs)

    def logits_and_features(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the logits and, of the same pass, the input of the output layer, float32 (texts, width)."""
        both = self._run(texts, pairs, ("logits", "features"))
        outputs = self.record.task.outputs
        return both[:, :outputs], both[:, outputs:]

    def _run(self, texts: Sequence[str], pairs: Sequence[str] | None, want: tuple[str, ...]) -> np.ndarray:
        self.check_pairs(pairs)
        spec = self.record.tokens
        with self._lock:  # truncation of the tokenizer and hooks of the output layer are shared state
            encoded = token_ids.encode(self.tokenizer, texts, pairs, spec, max_length=spec.limit)
            columns = Columns(encoded, np.zeros(len(texts), np.float32), np.ones(len(texts), np.float32))
            return inference.run(
                self.accelerator,
                self.model,
                columns,
                padding=self.padding,
                most_tokens=self.batch_tokens,
                want=want,
                among_ranks=self._among_ranks,
            )


def load_predictor(
    folder: Path, settings: Settings | None = None, *, tell: Callable[[str], None] = lambda _: None
) -> Labeller:
    """Load the model of a folder, saved or exported.

    Args:
        folder: of a run, of its model, or of an export.
        settings: of which `training.precision` (not for exports), `evaluation.batch_tokens` and `decision` are used;
            None: the defaults, with the decision rules that are saved with the model.
        tell: receives a warning about a risk limit that is not guaranteed.

    Raises:
        UserError: if the folder holds no model of ours, or for a rule that does not apply to its task.
    """
    settings = settings or Settings()
    precision, tokens = settings.training.precision, settings.evaluation.batch_tokens
    is_export = (folder / FIGURES).is_file()
    model: Labeller = (
        Exported(folder, batch_tokens=tokens)
        if is_export
        else Predictor(folder, precision=precision, batch_tokens=tokens)
    )
    model = model.with_rules(settings.decision)
    if warning := unreachable_risk(model.record.task, model.record.risk_curve):
        tell(f"warning: {warning}")
    return model


def predict_file(
    predictor: Labeller,
    settings: PredictSettings,
    columns: ColumnSettings,
    *,
    encoding: str,
    delimiter: str | None,
    overwrite: bool = False,
    screen: Screen | None = None,
) -> int:
    """Read rows and write them with their predictions; return the number of rows.

    The output has the format, delimiter and columns of the input, followed by `prediction`, fields for the decision
    rules that the model has, and the probabilities. The fields are `abstains` and `unknown` (true or false), `set`
    (labels), and for regression `low` and `high`. Probabilities are one column per label (``p(label)``) in CSV, TSV and
    Parquet, one object in JSONL. Several labels in a CSV cell are joined by |, or a JSON list if a label contains |.
    Lines of text become CSV.

    Under a launcher all ranks read the same rows, predict different chunks, and the first rank writes; a rank holds at
    most as many chunks as there are ranks.

    Raises:
        UserError: for unreadable rows (file:line), a missing column, or an existing output without `overwrite`; the
            input itself is never replaced.
    """
    check_predict(settings, overwrite=overwrite)
    kind = stream_format(settings.input, settings.format)
    separator = DELIMITERS.get(kind, ",") if delimiter is None or kind == "text" else delimiter_of(delimiter)
    screen, blank, first_blank = screen or Screen(quiet=True), 0, ""
    with ExitStack() as stack:
        file, _ = stack.enter_context(opened_file(settings.input))
        progress = RowProgress(file, kind, stack.enter_context(screen.bar("labelling")))
        tables = stream_rows(file, format=kind, encoding=encoding, delimiter=delimiter, chunk_rows=settings.chunk_rows)
        out = stack.enter_context(open_output(settings.output, kind) if is_main() else nullcontext(io.StringIO()))
        writer = stack.enter_context(closing(writer_of(out, predictor.record.task, kind, separator)))

        def read_chunks() -> Iterator[Chunk]:
            nonlocal blank, first_blank
            for table in tables:
                writer.check(table)
                texts, pairs = _inputs(table, predictor.record, columns, kind)
                if rows := blank_rows(texts, pairs):
                    blank, first_blank = blank + len(rows), first_blank or table.where(rows[0])
                yield Chunk(table, texts, pairs)

        for table, answers in predict_chunks(predictor, read_chunks()):
            if is_main():
                writer.write(table, answers)
            progress.show(len(table))
    if blank:
        screen.tell(
            f"{blank:,} of {progress.rows:,} rows have nothing to read, first {first_blank}, and were labelled like "
            "the rest"
        )
    return progress.rows


def _inputs(
    table: Table, record: Record, columns: ColumnSettings, kind: str
) -> tuple[Sequence[str], Sequence[str] | None]:
    """Return the texts of a table, from the columns that are set, or those the model was trained on.

    A single column may also have any other name that is recognised for texts.
    """
    roles = {}
    for role in ("text", "text_pair") if record.task.pair else ("text",):
        chosen = getattr(columns, role)
        column = chosen or record.roles.get(role, role)
        is_single = len(table.columns) == 1 and not record.task.pair
        if column not in table.columns and is_single and not chosen:
            column = find_column(table, role, None) or column
        if column not in table.columns:
            name = next(iter(table.columns)) if is_single else "..."
            may_lack_header = is_single and kind in DELIMITERS
            hint = f"; if {name!r} is a text itself, predict.format=text: one text per line, no header"
            hint = hint if may_lack_header else ""
            raise UserError(
                f"{table.origin} has no column {column!r}{did_you_mean(column, table.columns)}; its columns are "
                f"{', '.join(table.columns)}: set {shell_word(f'data.columns.{role}', name)}{hint}"
            )
        roles[role] = column
    return read_texts(table, roles)
