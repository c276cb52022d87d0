"""Export a saved model as a graph that runs without torch: ONNX in float32 or 8 bits, or OpenVINO.

The graph is the plain padded forward pass, for any batch size and length. `predicting.exported` runs the result,
`fidelity` compares it with the original, and `static` exports a model without layers as a table.
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
from nlp_transfer.artefact.places import FIGURES, ONNX, OPENVINO, model_folder, run_of
from nlp_transfer.artefact.record import Record, read_record, write_record
from nlp_transfer.continual.rows import load
from nlp_transfer.data.batches import Padding, pad
from nlp_transfer.data.corpus import Examples
from nlp_transfer.data.paths import expanded
from nlp_transfer.data.sources import source_of
from nlp_transfer.decision.rules import needs_features, record_with_rules, unreachable_risk
from nlp_transfer.encoder.classifier import INPUTS
from nlp_transfer.encoder.pooled_config import encoder_config
from nlp_transfer.encoder.source import digest_of, read_json, weight_files
from nlp_transfer.errors import UserError
from nlp_transfer.exporting.fidelity import Fidelity, Figure, measure, trace_texts
from nlp_transfer.exporting.formats import FORMATS, check_export
from nlp_transfer.exporting.static import write_table
from nlp_transfer.machine.disk import atomic_folder, write_json
from nlp_transfer.machine.requirements import require_installed
from nlp_transfer.machine.versions import installed
from nlp_transfer.predicting.exported import OUTPUT, WEIGHTS, Exported, encode, weights_of
from nlp_transfer.predicting.predict import Predictor
from nlp_transfer.settings import Settings
from nlp_transfer.terminal.console import Screen

OPSET = 18  # the default of torch; supported by ONNX Runtime since 1.14
_AXES = {0: "batch", 1: "length"}
_MAX_BYTES = 2**31  # of a file of protocol buffers


@dataclass(frozen=True)
class Export:
    """An exported model: its folder, and how it differs from the original, whose weights have this SHA-256."""

    folder: Path
    format: str
    sha256: str | None
    fidelity: Fidelity
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return the export as plain values."""
        versions = installed(("nlp-transfer", "torch", "transformers", *FORMATS[self.format].libraries))
        opset = None if self.format == "static" else OPSET
        figures = {"format": self.format, "opset": opset, "sha256": self.sha256, **self.fidelity.to_json()}
        return figures | {"notes": self.notes, "versions": versions}


def export(folder: Path, settings: Settings, *, screen: Screen | None = None) -> Export:
    """Export the model of a run, and compare the export with it on the validation rows of the run, if any.

    The folder contains all that is needed to use it: ``model.onnx``, ``model.xml`` with ``model.bin``, or
    ``static.safetensors`` with a ``README.md``; the tokenizer, ``config.json``, ``nlp_transfer.json`` and the figures
    in ``export.json``. `predicting.exported.Exported` loads it.

    Args:
        folder: of the run, or of a model alone; without validation rows a few fixed sentences are compared.
        settings: those of the run's ``config.yaml``; the `export` group determines format and folder.
        screen: where progress is shown; None: nowhere.

    Raises:
        UserError: for a missing library, an adapter that is not merged, an architecture that cannot be traced, and for
            a float32 export whose outputs differ from the model's. Nothing is written then.
    """
    options = settings.export
    check_export(options)
    require_installed(*FORMATS[options.format].libraries)
    screen = screen or Screen(quiet=True)
    model, run = model_folder(folder), run_of(folder)
    record = read_record(model)
    if not record.merged:
        raise UserError(
            f"{model} holds an adapter that is not merged: nlp-transfer merge {folder} WHOLE, then nlp-transfer export "
            "WHOLE"
        )
    record = _without_features(record_with_rules(record, settings.decision), folder)
    default = run / options.format if run else model.with_name(f"{model.name}-{options.format}")
    target = expanded(options.output) if options.output else default
    with atomic_folder(target, FIGURES, "export") as making:
        with screen.busy("reading data"):
            rows, notes = _rows(run, settings, record)
        if warning := unreachable_risk(record.task, record.risk_curve):
            notes.append(f"{warning[0].upper()}{warning[1:]}.")
        with screen.busy("exporting the model"):
            _write(model, record, options.format, making)
        with screen.busy("comparing it with the model"):
            predictor = Predictor(model, precision="fp32", batch_tokens=settings.evaluation.batch_tokens)
            predictor = predictor.with_rules(settings.decision)
            fidelity = measure(
                predictor,
                Exported(making, threads=options.threads, batch_tokens=settings.evaluation.batch_tokens),
                rows,
                metric=settings.evaluation.metric,
                threads=options.threads,
                megabytes=Figure(*(sum(p.stat().st_size for p in files) / 1e6 for files in _files(model, making))),
            )
        if options.format != "onnx_int8" and not fidelity.is_rounding:
            raise UserError(
                f"{model}: its export gives other answers: logits differ by up to {fidelity.largest_difference:.2g}, "
                f"{fidelity.changed_decisions:,} decisions changed; nothing is written. The conversion is at fault "
                f"({_named(FORMATS[options.format].libraries)}): try other versions, or another export.format"
            )
        exported = Export(target, options.format, record.sha256, fidelity, notes)
        write_json(making / FIGURES, exported.to_json())
    return exported


def _without_features(record: Record, folder: Path) -> Record:
    """Return the record of an export, which computes logits but no features.

    Raises:
        UserError: if the model's rule for unknown texts needs features.
    """
    if record.novelty is None or not record.novelty.reads_features:
        return record
    if needs_features(record):
        raise UserError(
            f"decision.unknown={record.task.unknown:g}: this model detects unknown texts by {record.novelty.score}, "
            f"from features that an export lacks: nlp-transfer export {folder} decision.unknown=0 leaves that out"
        )
    return dataclasses.replace(record, novelty=None)


def _named(libraries: tuple[str, ...]) -> str:
    return ", ".join(f"{name} {version}" for name, version in installed(("torch", *libraries)).items())


def _files(model: Path, making: Path) -> tuple[list[Path], list[Path]]:
    return weight_files(model), [path for file in WEIGHTS for path in weights_of(making, file)]


def _rows(run: Path | None, settings: Settings, record: Record) -> tuple[Examples | None, list[str]]:
    """Return the validation rows for the comparison, or None, and notes about them."""
    if run is None:
        return None, ["A model without the config.yaml of its run has no known validation rows."]
    if not any(source_of(settings.data)):
        return None, ["The rows of the run were given from Python: a few fixed sentences are used."]
    try:
        corpus = load(dataclasses.replace(settings, data=dataclasses.replace(settings.data, unlabelled=None)))
    except UserError as error:
        return None, [f"The rows of the run cannot be read now: {error}"]
    if not corpus.task.has_same_targets(record.task):
        return None, [f"{corpus.source} no longer has the labels that the model was trained on."]
    rows, most = corpus.splits.get("validation"), settings.export.rows
    if rows is None:
        return None, ["The run has no validation rows to compare on: a few fixed sentences are used."]
    changed = corpus.fingerprint != record.data["fingerprint"]
    notes = ["The data is not what the model was trained on."] if changed else []
    if most is None or len(rows) <= most:
        return rows, notes
    notes.append(f"{most:,} of {len(rows):,} validation rows, evenly spread (export.rows).")
    return rows.take(np.linspace(0, len(rows) - 1, most).astype(np.int64).tolist()), notes


def _write(folder: Path, record: Record, form: str, making: Path) -> None:
    """Write everything except the figures."""
    model, tokenizer = load_model(folder, record)
    if form == "static":
        write_table(model, tokenizer, record, making)
    else:
        _write_graph(model, tokenizer, record, form, making)
    config = read_json(folder / "config.json")
    config.pop("auto_map", None)  # the code it names is not part of the export
    write_json(making / "config.json", config)
    save_tokenizer(tokenizer, record, making)
    write_record(dataclasses.replace(record, sha256=digest_of(weights_of(making, FORMATS[form].file))), making)


def _write_graph(model: Any, tokenizer: Any, record: Record, form: str, making: Path) -> None:
    with _silenced(), torch.no_grad():
        program = _converted(model, tokenizer, record)
        if form == "onnx":
            program.save(making / ONNX)
        else:
            floats = making / "float.onnx"
            program.save(floats)
            (_quantise if form == "onnx_int8" else _to_openvino)(floats, making, program)
            for path in making.glob(f"{floats.name}*"):
                path.unlink()


class _Graph(nn.Module):
    """A model as a function from the tensors of a batch, in a fixed order, to logits."""

    def __init__(self, model: Any, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *rows: Tensor) -> Tensor:
        return self.model(**dict(zip(self.names, rows, strict=True))).logits


def _converted(model: Any, tokenizer: Any, record: Record) -> Any:
    """Return the ONNX program of a model, with dynamic batch size and length.

    TorchScript (`dynamo=False`) is not used, because its logits were off by 0.03: it treats the length of the traced
    rows as constant.

    Raises:
        UserError: for an architecture that cannot be traced, with the reason.
    """
    texts, pairs = trace_texts(pair=record.task.pair)
    encoded = encode(tokenizer, record.tokens, texts, pairs)
    rows = pad(encoded, np.arange(len(texts)), padding=Padding.of(tokenizer, positions_per_token=1))
    names = [name for name in INPUTS if name in rows]
    dynamic = dict.fromkeys(_AXES, torch.export.Dim.DYNAMIC)
    kind = encoder_config(model.config).model_type
    try:
        traced = torch.export.export(
            _Graph(model, names).eval(),
            tuple(torch.from_numpy(rows[name]) for name in names),
            dynamic_shapes=(tuple(dynamic for _ in names),),
            strict=False,
        )
        limit = _max_length(traced, names)
        if limit < record.tokens.limit:
            raise ValueError(f"the graph supports at most {limit} tokens")
        program = torch.onnx.export(
            traced,
            input_names=names,
            output_names=[OUTPUT],
            dynamic_shapes=tuple(dict(_AXES) for _ in names),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    except Exception as error:  # tracing fails with many kinds of exceptions
        raise UserError(
            f"{kind} cannot be exported: torch {torch.__version__} cannot trace it for texts of every length "
            f"({_reason(error)}); use the saved model itself, or another encoder"
        ) from error
    assert program is not None
    # Drop the stack trace of every node, which names local files and is twice the size of a small model.
    for part in (program.model, program.model.graph, *program.model.graph):
        part.metadata_props.clear()
    return program


def _max_length(traced: Any, names: list[str]) -> int:
    """Return the maximum length that a traced program supports; the ONNX graph would not check it."""
    inputs = [node for node in traced.graph.nodes if node.op == "placeholder"][-len(names) :]
    width = inputs[0].meta["val"].shape[1].node.expr
    upper = traced.range_constraints[width].upper
    return int(upper) if upper < 2**31 else 2**31


def _quantise(floats: Path, making: Path, program: Any) -> None:
    """Write the graph with 7-bit weights, stored as bytes, and 8-bit activations.

    Measured on 546 questions (TREC, all-MiniLM-L6-v2): per-channel weights change 1.3 % of the decisions, per-tensor
    weights 3.5 %. Quantising the word embeddings changes nothing and they are two fifths of the file. 8-bit weights are
    no better, and their products overflow on processors without VNNI. The last layer costs nothing in float. With the
    second half of each feed-forward block in float, logits differ a quarter less and the file is half as large again.
    """
    from onnxruntime.quantization import quantize_dynamic

    last = _last_product(program.model.graph)
    is_large = sum(path.stat().st_size for path in making.glob(f"{floats.name}*")) > _MAX_BYTES
    quantize_dynamic(
        floats,
        making / ONNX,
        op_types_to_quantize=["MatMul", "Gather"],
        per_channel=True,
        reduce_range=True,
        nodes_to_exclude=[last, f"{last}_MatMul"],  # its name, also after the library has converted a Gemm
        use_external_data_format=is_large,
    )


def _last_product(graph: Any) -> str:
    """Return the name of the matrix product that computes the logits."""
    node = graph.outputs[0].producer()
    while node.op_type not in ("MatMul", "Gemm"):
        node = next(value.producer() for value in node.inputs if value is not None and value.producer() is not None)
    return str(node.name)


def _to_openvino(floats: Path, making: Path, program: Any) -> None:
    import openvino

    openvino.save_model(openvino.convert_model(floats), making / OPENVINO, compress_to_fp16=False)


@contextmanager
def _silenced() -> Iterator[None]:
    """Suppress warnings and log messages of the libraries; failures still raise exceptions."""
    root = logging.getLogger()
    before, nowhere = root.manager.disable, logging.NullHandler()
    root.addHandler(nowhere)  # otherwise the first warning would install a handler that writes
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        root.removeHandler(nowhere)


def _reason(error: BaseException) -> str:
    """Return the original cause of an error, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    message = textwrap.shorten(str(error).strip().split("\n")[0], 200, placeholder=" ...")
    return f"{type(error).__name__}: {message}"
