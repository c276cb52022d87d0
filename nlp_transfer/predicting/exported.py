"""An exported model as a function from texts to labels, as `Predictor` is one, by ONNX Runtime, OpenVINO or NumPy.

It reads a folder that `export` has written. Texts are cut, windowed and decided on as there; no torch computes.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nlp_transfer.artefact.folder import load_tokenizer
from nlp_transfer.artefact.record import read_record
from nlp_transfer.data import tokens as token_ids
from nlp_transfer.data.batches import Batch, Padding, evaluation_batches, pad
from nlp_transfer.decision.labelling import Labeller
from nlp_transfer.encoder.source import digest_of
from nlp_transfer.errors import UserError, first_line
from nlp_transfer.exporting.formats import ONNX, OPENVINO, STATIC

OUTPUT = "logits"
# Of the file that is loaded: those its weights lie in.
WEIGHTS = {ONNX: (ONNX, f"{ONNX}.data"), OPENVINO: (OPENVINO, "model.bin"), STATIC: (STATIC,)}
_RUNTIMES: dict[str, tuple[str, ...]] = {ONNX: ("onnxruntime",), OPENVINO: ("openvino",), STATIC: ()}
# Library -> the extra of this package that brings it.
EXTRAS = {"onnx": "export", "onnxscript": "export", "onnxruntime": "export", "openvino": "openvino"}

Run = Callable[[Mapping[str, np.ndarray]], np.ndarray]


class Exported(Labeller):
    """An exported model, loaded once."""

    def __init__(self, folder: Path | str, *, threads: int | None = None, batch_tokens: int = 4096) -> None:
        """Load the model of a folder.

        Args:
            folder: that `nlp-transfer export` has written, wherever it was moved to.
            threads: that compute; None: as many as the library takes.
            batch_tokens: in one forward pass at most, padding included.

        Raises:
            UserError: if a library is missing, or the folder holds no exported model, a damaged one or other bytes
                than were written.
        """
        self.folder = Path(folder)
        file = next((name for name in WEIGHTS if (self.folder / name).is_file()), None)
        if file is None:
            raise UserError(
                f"{self.folder} holds none of {', '.join(WEIGHTS)}: give a folder that `nlp-transfer export` has made"
            )
        need(*_RUNTIMES[file])
        self.record = read_record(self.folder)
        if digest_of(weights_of(self.folder, file)) != self.record.sha256:
            raise UserError(f"{self.folder}: {file} or its weights are not what was exported; copy the folder again")
        self.tokenizer = load_tokenizer(self.folder)
        self.batch_tokens = batch_tokens
        self._table = _table(self.folder / file) if file == STATIC else None
        if self._table is None:
            self._inputs, self._run = (_onnx if file == ONNX else _openvino)(self.folder / file, threads)
        self._one_at_a_time = threading.Lock()

    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray:
        """Return the raw outputs, float32 (texts, outputs); of a text in windows, their mean.

        Raises:
            UserError: for pairs where the model takes none, or none where it does.
        """
        self.check_pairs(pairs)
        logits = np.zeros((len(texts), self.record.task.outputs), np.float32)
        with self._one_at_a_time:  # the tokenizer is told how to cut
            if self._table is not None:
                return _mean_of_tokens(self._table, encode(self.tokenizer, self.record.tokens, texts, pairs))
            for examples, rows in self.batches(texts, pairs):
                answers = self._run({name: rows[name] for name in self._inputs})
                logits[examples] = _mean_by(rows["document"], answers) if "document" in rows else answers
        return logits

    def batches(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Iterator[tuple[np.ndarray, Batch]]:
        """Yield which texts a forward pass answers, and the arrays it reads."""
        encoded = encode(self.tokenizer, self.record.tokens, texts, pairs)
        padding = Padding.of(self.tokenizer, places_a_token=1)
        for examples in evaluation_batches(encoded, most_tokens=self.batch_tokens):
            yield examples, pad(encoded, examples, padding=padding)


def encode(
    tokenizer: Any, spec: token_ids.TokenSpec, texts: Sequence[str], pairs: Sequence[str] | None
) -> token_ids.Tokens:
    """Return the ids of texts to be answered, cut or windowed where the model demands."""
    return token_ids.encode(tokenizer, texts, pairs, spec, max_length=spec.limit)


def weights_of(folder: Path, file: str) -> list[Path]:
    """Return the files that hold the exported model `file`; weights of more than 2 GB lie apart."""
    return [folder / name for name in WEIGHTS[file] if (folder / name).is_file()]


def need(*libraries: str) -> None:
    """Refuse to go on without libraries.

    Raises:
        UserError: naming those that are missing and how to get them.
    """
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    if missing:
        extra = EXTRAS[missing[-1]]
        raise UserError(f'{", ".join(missing)} is not installed: pip install "nlp-transfer[{extra}]"')


def _onnx(path: Path, threads: int | None) -> tuple[list[str], Run]:
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.log_severity_level = 3  # its warnings are about its own optimisations
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own exceptions have no common class
        raise UserError(f"{path} cannot be loaded by ONNX Runtime: {first_line(error)[:300]}") from error
    inputs = [given.name for given in session.get_inputs()]
    return inputs, lambda rows: session.run([OUTPUT], dict(rows))[0]


def _openvino(path: Path, threads: int | None) -> tuple[list[str], Run]:
    import openvino

    # Left to itself it computes in bfloat16 where the processor can.
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", options)
    except Exception as error:  # RuntimeErrors of many kinds
        raise UserError(f"{path} cannot be loaded by OpenVINO: {first_line(error)[:300]}") from error
    return [given.any_name for given in compiled.inputs], partial(_answer, compiled)


def _answer(compiled: Any, rows: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.array(compiled(dict(rows))[OUTPUT])  # the memory of what it returns is its own


def _table(path: Path) -> np.ndarray:
    """Return what every token says, float32 (vocabulary, outputs)."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)[OUTPUT]
    except (SafetensorError, KeyError, OSError) as error:
        raise UserError(f"{path} cannot be loaded: {first_line(error)[:300]}") from error


def _mean_of_tokens(table: np.ndarray, encoded: token_ids.Tokens) -> np.ndarray:
    """Return the mean of the tokens of each window, and of the windows of each text, float32 (texts, outputs)."""
    if not len(encoded):
        return np.zeros((0, table.shape[1]), np.float32)
    lengths = encoded.sequence_lengths[:, None].astype(np.float32)
    said = np.add.reduceat(table[encoded.ids], encoded.offsets[:-1], axis=0) / lengths
    if len(said) == len(encoded):
        return said
    return np.add.reduceat(said, encoded.first[:-1], axis=0) / encoded.windows[:, None].astype(np.float32)


def _mean_by(document: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Average over the windows of each text: (windows, outputs) -> (texts, outputs)."""
    starts = np.flatnonzero(np.diff(document, prepend=-1))
    return np.add.reduceat(values, starts, axis=0) / np.bincount(document)[:, None].astype(np.float32)
