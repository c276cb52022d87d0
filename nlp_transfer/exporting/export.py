"""A saved model as a graph that runs without torch: ONNX in float32 or 8 bits, or OpenVINO; compared before it is kept.

The graph is the plain padded forward pass, of as many texts and tokens as it is given. Reading what is written here is
the business of `predicting.exported`, comparing that of `fidelity`; of a model without layers `static` makes a table.
"""

from __future__ import annotations

import dataclasses
import logging
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nlp_transfer.artefact.folder import load_model, save_tokenizer
from nlp_transfer.artefact.places import FIGURES, model_folder, run_of
from nlp_transfer.artefact.record import Record, read_record, write_record
from nlp_transfer.continual.rows import load
from nlp_transfer.data.batches import Padding, pad
from nlp_transfer.data.corpus import Examples
from nlp_transfer.data.paths import expanded
from nlp_transfer.decision.rules import needs_features, ruled, unpromised
from nlp_transfer.encoder.classifier import INPUTS
from nlp_transfer.encoder.pooled_config import encoder_config
from nlp_transfer.encoder.source import digest_of, read_json, weight_files
from nlp_transfer.errors import UserError
from nlp_transfer.exporting.fidelity import Fidelity, Figure, measure, trace_texts
from nlp_transfer.exporting.formats import FORMATS, ONNX, OPENVINO, check_export
from nlp_transfer.exporting.static import write_table
from nlp_transfer.machine.disk import atomic_folder, write_json
from nlp_transfer.machine.versions import installed
from nlp_transfer.predicting.exported import OUTPUT, WEIGHTS, Exported, encode, need, weights_of
from nlp_transfer.predicting.predict import Predictor
from nlp_transfer.settings import Settings
from nlp_transfer.terminal.console import Screen

OPSET = 18  # torch's own; ONNX Runtime has known it since 1.14
_AXES = {0: "batch", 1: "length"}
_LARGEST = 2**31  # bytes of a file of protocol buffers


@dataclass(frozen=True)
class Export:
    """An exported model: its folder, and how it differs from the model whose weights have that SHA-256."""

    folder: Path
    format: str
    sha256: str | None
    fidelity: Fidelity
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        versions = installed(("nlp-transfer", "torch", "transformers", *FORMATS[self.format].libraries))
        opset = None if self.format == "static" else OPSET
        figures = {"format": self.format, "opset": opset, "sha256": self.sha256, **self.fidelity.to_json()}
        return figures | {"notes": self.notes, "versions": versions}


def export(folder: Path, settings: Settings, *, screen: Screen | None = None) -> Export:
    """Write the model of a run as a graph, and compare it with the model on the validation rows of the run, if any.

    The folder holds all that is needed to use it: ``model.onnx``, ``model.xml`` with ``model.bin``, or
    ``static.safetensors`` with a ``README.md``; the tokenizer, ``config.json``, ``nlp_transfer.json`` and the figures
    in ``export.json``. `predicting.exported.Exported` reads it.

    Args:
        folder: of the run; or of a model alone, which is compared on a few fixed sentences, as where no such rows are.
        settings: those of the run's ``config.yaml``; the `export` group says what is written and where.
        screen: where progress is shown; None: nowhere.

    Raises:
        UserError: for a missing library; an adapter that is not merged; an architecture that cannot be traced, with the
            reason; and in float32 for a graph that does not answer as the model does. Nothing is written then.
    """
    wanted = settings.export
    check_export(wanted)
    need(*FORMATS[wanted.format].libraries)
    screen = screen or Screen(speaks=False)
    model, run = model_folder(folder), run_of(folder)
    record = read_record(model)
    if not record.merged:
        raise UserError(
            f"{model} holds an adapter that is not merged: nlp-transfer merge {folder} WHOLE, then nlp-transfer export "
            "WHOLE"
        )
    record = _without_features(ruled(record, settings.decision), folder)
    beside = run / wanted.format if run else model.with_name(f"{model.name}-{wanted.format}")
    target = expanded(wanted.output) if wanted.output else beside
    with atomic_folder(target, FIGURES, "export") as making:
        with screen.busy("reading data"):
            rows, notes = _rows(run, settings, record)
        if why := unpromised(record.task, record.risk_curve):
            notes.append(f"{why[0].upper()}{why[1:]}.")
        with screen.busy("exporting the model"):
            _write(model, record, wanted.format, making)
        with screen.busy("comparing it with the model"):
            predictor = Predictor(model, precision="fp32", batch_tokens=settings.evaluation.batch_tokens)
            predictor = predictor.deciding_by(settings.decision)
            fidelity = measure(
                predictor,
                Exported(making, threads=wanted.threads, batch_tokens=settings.evaluation.batch_tokens),
                rows,
                metric=settings.evaluation.metric,
                threads=wanted.threads,
                megabytes=Figure(*(sum(p.stat().st_size for p in files) / 1e6 for files in _files(model, making))),
            )
        if wanted.format != "onnx_int8" and not fidelity.is_rounding:
            raise UserError(
                f"{model}: its export answers otherwise: logits differ by up to {fidelity.largest_difference:.2g}, "
                f"{fidelity.changed_decisions:,} decisions are others; nothing is written. The conversion is at fault "
                f"({_named(FORMATS[wanted.format].libraries)}): try other versions, or another export.format"
            )
        done = Export(target, wanted.format, record.sha256, fidelity, notes)
        write_json(making / FIGURES, done.to_json())
    return done


def _without_features(record: Record, folder: Path) -> Record:
    """Return the record of a graph, which answers with logits alone.

    Raises:
        UserError: where the model's rule for the unknown needs more.
    """
    if record.novelty is None or not record.novelty.reads_features:
        return record
    if needs_features(record):
        raise UserError(
            f"decision.unknown={record.task.unknown:g}: this model tells unknown texts by {record.novelty.score}, from "
            f"features that an export does not give: nlp-transfer export {folder} decision.unknown=0 leaves that out"
        )
    return dataclasses.replace(record, novelty=None)


def _named(libraries: tuple[str, ...]) -> str:
    return ", ".join(f"{name} {version}" for name, version in installed(("torch", *libraries)).items())


def _files(model: Path, making: Path) -> tuple[list[Path], list[Path]]:
    return weight_files(model), [path for file in WEIGHTS for path in weights_of(making, file)]


def _rows(run: Path | None, settings: Settings, record: Record) -> tuple[Examples | None, list[str]]:
    """Return validation rows to compare on, or None, and sentences on where they come from."""
    if run is None:
        return None, ["A model without the config.yaml of its run says of no rows that they are its own."]
    try:
        corpus = load(dataclasses.replace(settings, data=dataclasses.replace(settings.data, unlabelled=None)))
    except UserError as error:
        return None, [f"The rows of the run cannot be had now: {error}"]
    if not corpus.task.asks_as(record.task):
        return None, [f"{corpus.source} no longer has the labels that the model was trained on."]
    rows, most = corpus.splits.get("validation"), settings.export.rows
    if rows is None:
        return None, ["The run has no validation rows, which an export is compared on: a few fixed sentences are used."]
    changed = corpus.fingerprint != record.data["fingerprint"]
    notes = ["The data is not what the model was trained on."] if changed else []
    if most is None or len(rows) <= most:
        return rows, notes
    notes.append(f"{most:,} of {len(rows):,} validation rows, evenly spread (export.rows).")
    return rows.take(np.linspace(0, len(rows) - 1, most).astype(np.int64).tolist()), notes


def _write(folder: Path, record: Record, form: str, making: Path) -> None:
    """Write everything but the figures."""
    model, tokenizer = load_model(folder, record)
    if form == "static":
        write_table(model, tokenizer, record, making)
    else:
        _write_graph(model, tokenizer, record, form, making)
    config = read_json(folder / "config.json")
    config.pop("auto_map", None)  # the code it names stays behind
    write_json(making / "config.json", config)
    save_tokenizer(tokenizer, record, making)
    write_record(dataclasses.replace(record, sha256=digest_of(weights_of(making, FORMATS[form].file))), making)


def _write_graph(model: Any, tokenizer: Any, record: Record, form: str, making: Path) -> None:
    with _hushed(), torch.no_grad():
        program = _converted(model, tokenizer, record)
        if form == "onnx":
            program.save(making / ONNX)
        else:
            made = making / "float.onnx"
            program.save(made)
            (_quantise if form == "onnx_int8" else _to_openvino)(made, making, program)
            for path in making.glob(f"{made.name}*"):
                path.unlink()


class _Graph(nn.Module):
    """A model as a function from the tensors of a batch, in a given order, to logits."""

    def __init__(self, model: Any, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *rows: Tensor) -> Tensor:
        return self.model(**dict(zip(self.names, rows, strict=True))).logits


def _converted(model: Any, tokenizer: Any, record: Record) -> Any:
    """Return the ONNX program of a model, in which neither batch nor length is fixed.

    Not by TorchScript (`dynamo=False`), whose logits were off by 0.03: it takes the length of the traced rows for that
    of all.

    Raises:
        UserError: with the reason, for an architecture that cannot be traced so.
    """
    texts, pairs = trace_texts(pair=record.task.pair)
    encoded = encode(tokenizer, record.tokens, texts, pairs)
    rows = pad(encoded, np.arange(len(texts)), padding=Padding.of(tokenizer, places_a_token=1))
    names = [name for name in INPUTS if name in rows]
    free = dict.fromkeys(_AXES, torch.export.Dim.DYNAMIC)
    kind = encoder_config(model.config).model_type
    try:
        traced = torch.export.export(
            _Graph(model, names).eval(),
            tuple(torch.from_numpy(rows[name]) for name in names),
            dynamic_shapes=(tuple(free for _ in names),),
            strict=False,
        )
        longest = _longest(traced, names)
        if longest < record.tokens.limit:
            raise ValueError(f"the graph holds for texts of at most {longest} tokens alone")
        program = torch.onnx.export(
            traced,
            input_names=names,
            output_names=[OUTPUT],
            dynamic_shapes=tuple(dict(_AXES) for _ in names),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    except Exception as error:  # what cannot be traced is refused in a hundred ways
        raise UserError(
            f"{kind} cannot be exported: torch {torch.__version__} makes no graph of it for texts of every length "
            f"({_reason(error)}); use the saved model itself, or another encoder"
        ) from error
    assert program is not None
    # Where in which file of this machine each was traced: twice the size of a small model.
    for part in (program.model, program.model.graph, *program.model.graph):
        part.metadata_props.clear()
    return program


def _longest(traced: Any, names: list[str]) -> int:
    """Return how many tokens a traced program takes; a limit that is lower than the model's would not be said later."""
    inputs = [node for node in traced.graph.nodes if node.op == "placeholder"][-len(names) :]
    width = inputs[0].meta["val"].shape[1].node.expr
    upper = traced.range_constraints[width].upper
    return int(upper) if upper < 2**31 else 2**31


def _quantise(made: Path, making: Path, program: Any) -> None:
    """Write the graph with weights of 7 bits, in bytes, and activations of 8.

    Measured on 546 questions (TREC, all-MiniLM-L6-v2): with weights by channel 1.3 % of the decisions are others, by
    tensor 3.5 %. Word embeddings make no difference and are two fifths of the file. Weights of 8 bits bring nothing,
    and products of theirs overflow on processors without VNNI. The last layer costs nothing in float; with the second
    half of each feed-forward block in float, logits are a quarter nearer and the file is half as large again.
    """
    from onnxruntime.quantization import quantize_dynamic

    last = _last_product(program.model.graph)
    large = sum(path.stat().st_size for path in making.glob(f"{made.name}*")) > _LARGEST
    quantize_dynamic(
        made,
        making / ONNX,
        op_types_to_quantize=["MatMul", "Gather"],
        per_channel=True,
        reduce_range=True,
        nodes_to_exclude=[last, f"{last}_MatMul"],  # its name, and that which the library gives it before it looks
        use_external_data_format=large,
    )


def _last_product(graph: Any) -> str:
    """Return the name of the matrix product that makes the logits."""
    node = graph.outputs[0].producer()
    while node.op_type not in ("MatMul", "Gemm"):
        node = next(value.producer() for value in node.inputs if value is not None and value.producer() is not None)
    return str(node.name)


def _to_openvino(made: Path, making: Path, program: Any) -> None:
    import openvino

    openvino.save_model(openvino.convert_model(made), making / OPENVINO, compress_to_fp16=False)


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep off the screen what the libraries say of their own doings; what they refuse is an exception."""
    root = logging.getLogger()
    before, nowhere = root.manager.disable, logging.NullHandler()
    root.addHandler(nowhere)  # or the first warning would make one that writes
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        root.removeHandler(nowhere)


def _reason(error: BaseException) -> str:
    """Return what went wrong first, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = textwrap.shorten(str(error).strip().split("\n")[0], 200, placeholder=" ...")
    return f"{type(error).__name__}: {said}"
