"""Predict with an exported model, with ONNX Runtime, OpenVINO or NumPy, in place of a `Predictor`.

Tokenisation, windows and decision rules are those of the original model; torch computes nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nlp_transfer.artefact.folder import load_tokenizer
from nlp_transfer.artefact.places import ONNX, OPENVINO, STATIC
from nlp_transfer.artefact.record import read_record
from nlp_transfer.data import tokens as token_ids
from nlp_transfer.data.batches import Batch, Padding, evaluation_batches, pad
from nlp_transfer.decision.labelling import Labeller
from nlp_transfer.encoder.source import digest_of
from nlp_transfer.errors import UserError, first_line
from nlp_transfer.machine.requirements import require_installed

OUTPUT = "logits"
# The file that is loaded -> the files that contain its weights.
WEIGHTS = {ONNX: (ONNX, f"{ONNX}.data"), OPENVINO: (OPENVINO, "model.bin"), STATIC: (STATIC,)}
_RUNTIMES: dict[str, tuple[str, ...]] = {ONNX: ("onnxruntime",), OPENVINO: ("openvino",), STATIC: ()}

Run = Callable[[Mapping[str, np.ndarray]], np.ndarray]


class Exported(Labeller):
    """An exported model, loaded once."""

    def __init__(self, folder: Path | str, *, threads: int | None = None, batch_tokens: int = 4096) -> None:
        """Load the model of a folder.

        Args:
            folder: written by `nlp-transfer export`, possibly moved since.
            threads: number of CPU threads; None: the library's default.
            batch_tokens: maximum tokens of one forward pass, including padding.

        Raises:
            UserError: if a library is missing, or if the folder holds no exported model, or one that is damaged or
                was changed.
        """
        self.folder = Path(folder)
        file = next((name for name in WEIGHTS if (self.folder / name).is_file()), None)
        if file is None:
            raise UserError(
                f"{self.folder} holds none of {', '.join(WEIGHTS)}: give a folder that `nlp-transfer export` has made"
            )
        require_installed(*_RUNTIMES[file])
        self.record = read_record(self.folder)
        if digest_of(weights_of(self.folder, file)) != self.record.sha256:
            raise UserError(
                f"{self.folder}: {file} or its weights were changed since the export; copy the folder again"
            )
        self.tokenizer = load_tokenizer(self.folder)
        self.batch_tokens = batch_tokens
        self._table = _table(self.folder / file) if file == STATIC else None
        if self._table is None:
            self._inputs, self._run = (_onnx if file == ONNX else _openvino)(self.folder / file, threads)
        self._lock = threading.Lock()

    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray:
        """Return the logits, float32 (texts, outputs), averaged over the windows of a text.

        Raises:
            UserError: for pairs if the model takes single texts, or vice versa.
        """
        self.check_pairs(pairs)
        logits = np.zeros((len(texts), self.record.task.outputs), np.float32)
        with self._lock:  # the truncation settings of the tokenizer are shared state
            if self._table is not None:
                return _mean_of_tokens(self._table, encode(self.tokenizer, self.record.tokens, texts, pairs))
            for examples, rows in self.batches(texts, pairs):
                answers = self._run({name: rows[name] for name in self._inputs})
                logits[examples] = _mean_by(rows["document"], answers) if "document" in rows else answers
        return logits

    def batches(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Iterator[tuple[np.ndarray, Batch]]:
        """Yield the indices of the texts of each forward pass, and its input arrays."""
        encoded = encode(self.tokenizer, self.record.tokens, texts, pairs)
        padding = Padding.of(self.tokenizer, positions_per_token=1)
        for examples in evaluation_batches(encoded, most_tokens=self.batch_tokens):
            yield examples, pad(encoded, examples, padding=padding)


def encode(
    tokenizer: Any, spec: token_ids.TokenSpec, texts: Sequence[str], pairs: Sequence[str] | None
) -> token_ids.Tokens:
    """Return the token ids of texts, truncated or split into windows as the model requires."""
    return token_ids.encode(tokenizer, texts, pairs, spec, max_length=spec.limit)


def weights_of(folder: Path, file: str) -> list[Path]:
    """Return the files of the exported model `file`; ONNX stores weights of more than 2 GB in a second file."""
    return [folder / name for name in WEIGHTS[file] if (folder / name).is_file()]


def _onnx(path: Path, threads: int | None) -> tuple[list[str], Run]:
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.log_severity_level = 3  # errors only: warnings concern internal optimisations
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the exceptions of ONNX Runtime have no common base class
        raise UserError(f"{path} cannot be loaded by ONNX Runtime: {first_line(error)[:300]}") from error
    inputs = [each.name for each in session.get_inputs()]
    return inputs, lambda rows: session.run([OUTPUT], dict(rows))[0]


def _openvino(path: Path, threads: int | None) -> tuple[list[str], Run]:
    import openvino

    # By default OpenVINO computes in bfloat16 on processors that support it.
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", options)
    except Exception as error:  # RuntimeErrors of many kinds
        raise UserError(f"{path} cannot be loaded by OpenVINO: {first_line(error)[:300]}") from error
    return [each.any_name for each in compiled.inputs], partial(_run_openvino, compiled)


def _run_openvino(compiled: Any, rows: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.array(compiled(dict(rows))[OUTPUT])  # a copy: OpenVINO reuses the memory


def _table(path: Path) -> np.ndarray:
    """Return the logits of every token, float32 (vocabulary, outputs)."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)[OUTPUT]
    except (SafetensorError, KeyError, OSError) as error:
        raise UserError(f"{path} cannot be loaded: {first_line(error)[:300]}") from error


def _mean_of_tokens(table: np.ndarray, encoded: token_ids.Tokens) -> np.ndarray:
    """Return the mean over the tokens of each window and the windows of each text, float32 (texts, outputs)."""
    if not len(encoded):
        return np.zeros((0, table.shape[1]), np.float32)
    lengths = encoded.sequence_lengths[:, None].astype(np.float32)
    windows = np.add.reduceat(table[encoded.ids], encoded.offsets[:-1], axis=0) / lengths
    if len(windows) == len(encoded):
        return windows
    return np.add.reduceat(windows, encoded.first[:-1], axis=0) / encoded.windows[:, None].astype(np.float32)


def _mean_by(document: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Average over the windows of each text: (windows, outputs) -> (texts, outputs)."""
    starts = np.flatnonzero(np.diff(document, prepend=-1))
    return np.add.reduceat(values, starts, axis=0) / np.bincount(document)[:, None].astype(np.float32)
