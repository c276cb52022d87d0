"""A saved model as a function from texts to labels; rows stream through, order kept, memory flat."""

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
from nlp_transfer.data.hints import typed
from nlp_transfer.data.rows import blank_rows, read_texts
from nlp_transfer.data.table import Table
from nlp_transfer.decision.labelling import Labeller
from nlp_transfer.decision.rules import needs_features, unpromised
from nlp_transfer.encoder.agreeing import least_tokens
from nlp_transfer.encoder.anatomy import dissect, unwrapped
from nlp_transfer.encoder.packed import pack_if_wanted, unequal_rows
from nlp_transfer.errors import UserError, did_you_mean
from nlp_transfer.machine.launch import is_main
from nlp_transfer.predicting.checks import check_predict
from nlp_transfer.predicting.exported import Exported
from nlp_transfer.predicting.labelled import output, writer_of
from nlp_transfer.predicting.progress import RowProgress
from nlp_transfer.predicting.turns import Chunk, answered
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
        self.accelerator, _ = with_supported_precision(
            self.accelerator, self.model, rows, "auto", TrackingSettings(), self.folder
        )
        half = self.accelerator.mixed_precision != "no"
        places_a_token, _ = pack_if_wanted(self.model, anatomy, self.tokenizer, encoder, half=half)
        least = least_tokens(unwrapped(self.model))
        self.padding = Padding.of(self.tokenizer, places_a_token=places_a_token, least=least)
        if computes_in_bfloat16(self.accelerator):
            self.model = inference.inference_copy(self.model)

    def alone(self) -> Self:
        """Return the same model, which answers on this rank alone what it is asked there."""
        other = copy.copy(self)
        other._among_ranks = False
        return other

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
                among_ranks=self._among_ranks,
            )


def opened(folder: Path, settings: Settings | None = None, *, tell: Callable[[str], None] = lambda _: None) -> Labeller:
    """Return the model of a folder, saved or exported.

    Args:
        folder: of a run, of its model, or what `nlp-transfer export` has written.
        settings: `training.precision` (that of an exported model was chosen then), `evaluation.batch_tokens` and the
            group `decision` count; None: the defaults, by which a model decides as it was saved to.
        tell: is warned of a risk that is not promised.

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
    model = model.deciding_by(settings.decision)
    if why := unpromised(model.record.task, model.record.risk_curve):
        tell(f"warning: {why}")
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
    """Read rows, write the same rows with their prediction; return how many.

    The output has the input's format, delimiter and columns, then `prediction` and the probabilities: one column a
    label (``p(label)``) in CSV, TSV and Parquet, one object in JSONL. What the rules of the model say comes between
    them, of a model that has the rule: `abstains` and `unknown` (true or false), `set` (labels), and for a number `low`
    and `high`. Several labels are one cell of a CSV, joined by |, or a JSON list where a label of the task contains
    that. Lines of text become CSV.

    Several ranks read the same rows, answer their chunks in turn, and the first one writes; each holds as many
    chunks as there are ranks, and no more.

    Raises:
        UserError: for unreadable rows (file:line), a missing column, or an output that is there already, unless
            `overwrite` says that it may be replaced; the input itself never is.
    """
    check_predict(settings, overwrite=overwrite)
    kind = stream_format(settings.input, settings.format)
    mark = DELIMITERS.get(kind, ",") if delimiter is None or kind == "text" else delimiter_of(delimiter)
    screen, blank, first = screen or Screen(speaks=False), 0, ""
    with ExitStack() as until:
        file, _ = until.enter_context(opened_file(settings.input))
        progress = RowProgress(file, kind, until.enter_context(screen.bar("labelling")))
        tables = stream_rows(file, format=kind, encoding=encoding, delimiter=delimiter, chunk_rows=settings.chunk_rows)
        out = until.enter_context(output(settings.output, kind) if is_main() else nullcontext(io.StringIO()))
        writer = until.enter_context(closing(writer_of(out, predictor.record.task, kind, mark)))

        def read() -> Iterator[Chunk]:
            nonlocal blank, first
            for table in tables:
                writer.check(table)
                texts, pairs = _inputs(table, predictor.record, columns, kind)
                if found := blank_rows(texts, pairs):
                    blank, first = blank + len(found), first or table.where(found[0])
                yield Chunk(table, texts, pairs)

        for table, answers in answered(predictor, read()):
            if is_main():
                writer.write(table, answers)
            progress.show(len(table))
    if blank:
        screen.tell(
            f"{blank:,} of {progress.rows:,} rows have nothing to read, first {first}, and were labelled like the rest"
        )
    return progress.rows


def _inputs(
    table: Table, record: Record, columns: ColumnSettings, kind: str
) -> tuple[Sequence[str], Sequence[str] | None]:
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
