"""Verify that plain transformers and PEFT load a saved folder with the outputs of the trained model.

The logits of the trained model for a few fixed sentences are in ``answers.json`` of the folder. A fresh process loads
the folder and computes them again, without importing this package, unless only this package can load it. Independent
of training.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from nlp_transfer import encoder
from nlp_transfer.artefact.record import Record
from nlp_transfer.encoder import answers
from nlp_transfer.encoder.answers import ANSWERS
from nlp_transfer.encoder.depth import entries_of
from nlp_transfer.encoder.source import ADAPTER, ADAPTER_WEIGHTS, POOLED, read_json
from nlp_transfer.errors import UserError

OUR_CODE = {  # the auto_map that transformers writes for our head
    "AutoConfig": "pooled_config.PooledConfig",
    "AutoModelForSequenceClassification": "pooled.PooledForSequenceClassification",
}
SECONDS = 600  # timeout of the fresh process
# Absolute tolerance of logits, and relative to the largest; rounding in float32 makes up 1e-6 of it.
TOLERANCE, SHARE = 1e-4, 1e-3
# The program of the fresh process for folders that only this package can load.
_OUR_PROGRAM = """
import json, sys
from pathlib import Path
from nlp_transfer.encoder.answers import answers_of
from nlp_transfer.artefact.folder import load_model
from nlp_transfer.artefact.record import read_record
job = json.load(sys.stdin)
folder = Path(job["folder"])
model, tokenizer = load_model(folder, read_record(folder))
found = answers_of(model, tokenizer, job["texts"], job["pairs"], truncation=job["truncation"])
print(json.dumps({"ours": found}))
"""
# Variables with which a launcher identifies its processes, of which the fresh process is none.
_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")


class Mismatch(UserError):
    """Plain transformers cannot load a saved folder, or computes other outputs than the trained model."""


class Unanswered(UserError):
    """The fresh process was killed or timed out, which says nothing about the folder."""


def verify(folder: Path, record: Record, *, base: Path | None) -> float:
    """Load a saved folder in a fresh process; return the largest difference of a logit.

    Raises:
        Mismatch: saying what differs.
        UserError: if the folder has no answers to compare with, or contains code that is not ours.
    """
    with fresh_process(folder, record, base=base) as process:
        return process.result()


class FreshProcess:
    """A process that loads a saved folder."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[str], expected: np.ndarray, record: Record) -> None:
        self._process, self._errors, self._expected, self._labels = process, errors, expected, record.task.labels

    def result(self) -> float:
        """Wait for the answers; return the largest difference of a logit.

        Raises:
            Mismatch: saying what differs.
            Unanswered: if the process was killed or timed out.
        """
        try:
            output = self._process.communicate(timeout=SECONDS)[0]
        except subprocess.TimeoutExpired:
            raise Unanswered(f"no fresh process loaded the saved model within {SECONDS} s") from None
        if self._process.returncode < 0:
            raise Unanswered(
                f"a fresh process that loaded the saved model was killed (signal {-self._process.returncode})"
            )
        if self._process.returncode:
            self._errors.seek(0)
            message = (self._errors.read().strip().splitlines() or [f"status {self._process.returncode}"])[-1]
            raise self._mismatch(f"it cannot be loaded: {message}")
        return self._compare(json.loads(output.splitlines()[-1]))

    def _mismatch(self, reason: str) -> Mismatch:
        return Mismatch(
            f"the saved model, loaded by transformers in a fresh process, is not the one that was trained: {reason}"
        )

    def _compare(self, computed: Mapping[str, Any]) -> float:
        """Return the largest difference of a logit, or raise a Mismatch."""
        names = tuple(computed.get("labels", self._labels))
        if self._labels and names != self._labels:
            raise self._mismatch(f"its config.json names the labels {names[:5]}, not {self._labels[:5]}")
        largest = 0.0
        for part in ("model", "adapter", "ours"):
            if part not in computed:
                continue
            logits = np.asarray(computed[part], np.float64)
            if logits.shape != self._expected.shape:
                raise self._mismatch(f"the {part} has {logits.shape[1]} outputs, not {self._expected.shape[1]}")
            difference = float(np.abs(logits - self._expected).max())
            if not difference <= TOLERANCE + SHARE * float(np.abs(self._expected).max()):
                raise self._mismatch(f"a logit of the {part} differs by {difference:.2g}")
            largest = max(largest, difference)
        return largest


@contextmanager
def fresh_process(folder: Path, record: Record, *, base: Path | None) -> Iterator[FreshProcess]:
    """Start a process that loads a saved folder with plain transformers, and its adapter with plain PEFT.

    Only an adapter on our own head, which plain PEFT cannot load, is loaded by this package there.

    Args:
        folder: of the saved model.
        record: its record.
        base: the folder of an adapter's encoder; None: adapters are not verified.

    Raises:
        UserError: if the folder has no answers to compare with, or contains code that is not ours.
    """
    job, expected = _job(folder)
    adapter = folder / ADAPTER if record.merged else folder
    plain = base is not None and record.encoder.head == "native" and (adapter / ADAPTER_WEIGHTS).is_file()
    job |= {
        "whole": record.merged,
        "adapter": str(adapter) if plain else None,
        "base": str(base) if plain else None,
        "entries": entries_of(read_json(base / "config.json"), record.encoder.depth) if plain and base else {},
    }
    # -P: do not import from the folder of that file, which is inside this package.
    program = ["-P", answers.__file__] if record.merged or plain else ["-c", _OUR_PROGRAM]
    with tempfile.TemporaryDirectory() as scratch, (Path(scratch) / "errors").open("w+", encoding="utf-8") as errors:
        environment = {key: value for key, value in os.environ.items() if key not in _RANK_VARIABLES}
        environment |= {
            "HF_HUB_OFFLINE": "1",  # a complete folder does not need the Hub
            "HF_MODULES_CACHE": str(Path(scratch) / "modules"),  # where transformers copies the code of our own head
            "CUDA_VISIBLE_DEVICES": "",  # the GPU is in use by this process
            "PYTHONWARNINGS": "ignore",
        }
        process = subprocess.Popen(
            [sys.executable, *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        )
        try:
            assert process.stdin
            with contextlib.suppress(BrokenPipeError):  # it has already failed, which `result` reports
                process.stdin.write(json.dumps(job))
                process.stdin.close()
            process.stdin = None  # otherwise `communicate` would flush the closed stream
            yield FreshProcess(process, errors, expected, record)
        finally:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()


def _job(folder: Path) -> tuple[dict[str, Any], np.ndarray]:
    """Return the job for the fresh process, and the expected logits, float64 (texts, outputs)."""
    path = folder / ANSWERS
    content = read_json(path)
    if not content:
        raise UserError(f"{path} is missing, so the model cannot be verified; save it again")
    try:
        expected = np.asarray(content.pop("logits"), np.float64)
        job = {key: content[key] for key in ("texts", "pairs", "truncation")}
        if expected.ndim != 2 or len(expected) != len(job["texts"]):
            raise ValueError("not one row of logits per text")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error}); save the model again") from error
    return {"folder": str(folder), **job, "own_head": _has_our_head(folder), "outputs": expected.shape[1]}, expected


def _has_our_head(folder: Path) -> bool:
    """Return whether the model has our head, whose code is in the folder and will be run.

    Raises:
        UserError: if the code differs from that of this package, because the folder may not be trustworthy.
    """
    config = read_json(folder / "config.json")
    if config.get("model_type") != POOLED:
        return False
    ours = Path(encoder.__path__[0])
    changed = [file for file in folder.rglob("*.py") if file.read_bytes() != _bytes(ours / file.relative_to(folder))]
    if changed or config.get("auto_map") != OUR_CODE:
        code = changed[0] if changed else f"auto_map in {folder / 'config.json'}"
        raise UserError(f"{code} is not the code of this version of nlp_transfer; adapt or save the model again")
    return True


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
