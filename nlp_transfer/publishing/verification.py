"""Whether a saved folder answers everybody as the model did that was trained: asked of plain transformers and PEFT.

What the model answered to a few fixed sentences is kept in the folder as ``answers.json``. A fresh process loads the
folder and answers them too; nothing of this package is imported there, unless nobody else can load it. It knows
nothing of training.
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

OUR_CODE = {  # as transformers writes it for our own head
    "AutoConfig": "pooled_config.PooledConfig",
    "AutoModelForSequenceClassification": "pooled.PooledForSequenceClassification",
}
SECONDS = 600  # in which a fresh process must have answered
# By how much logits may differ, and by which share of the largest: float32 sums in another order differ by 1e-6 of it.
TOLERANCE, SHARE = 1e-4, 1e-3
# What answers where nobody else can load the folder.
_OURS = """
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
# A launcher's word for who is who among its processes; this one is nobody among them.
_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")


class Mismatch(UserError):
    """A saved folder cannot be loaded by plain transformers, or answers otherwise than the model that was trained."""


class Unanswered(UserError):
    """The fresh process came to no end: that says nothing of the folder."""


def verify(folder: Path, record: Record, *, base: Path | None) -> float:
    """Load a saved folder in a fresh process; return the largest difference of a logit.

    Raises:
        Mismatch: saying what differs.
        UserError: if the folder holds no answers to compare with, or code that is not ours.
    """
    with fresh_process(folder, record, base=base) as process:
        return process.result()


class FreshProcess:
    """A fresh process that is loading a saved folder."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[str], wanted: np.ndarray, record: Record) -> None:
        self._process, self._errors, self._wanted, self._labels = process, errors, wanted, record.task.labels

    def result(self) -> float:
        """Wait for the answers; return the largest difference of a logit.

        Raises:
            Mismatch: saying what differs.
            Unanswered: where no answer came.
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
            said = (self._errors.read().strip().splitlines() or [f"status {self._process.returncode}"])[-1]
            raise self._mismatch(f"it cannot be loaded: {said}")
        return self._compared(json.loads(output.splitlines()[-1]))

    def _mismatch(self, what: str) -> Mismatch:
        return Mismatch(
            f"the saved model is not the one that was trained, as a fresh process with transformers loads it: {what}"
        )

    def _compared(self, found: Mapping[str, Any]) -> float:
        names = tuple(found.get("labels", self._labels))
        if self._labels and names != self._labels:
            raise self._mismatch(f"its config.json names the labels {names[:5]}, not {self._labels[:5]}")
        largest = 0.0
        for what in ("model", "adapter", "ours"):
            if what not in found:
                continue
            logits = np.asarray(found[what], np.float64)
            if logits.shape != self._wanted.shape:
                raise self._mismatch(f"the {what} has {logits.shape[1]} outputs, not {self._wanted.shape[1]}")
            difference = float(np.abs(logits - self._wanted).max())
            if not difference <= TOLERANCE + SHARE * float(np.abs(self._wanted).max()):
                raise self._mismatch(f"a logit of the {what} differs by {difference:.2g}")
            largest = max(largest, difference)
        return largest


@contextmanager
def fresh_process(folder: Path, record: Record, *, base: Path | None) -> Iterator[FreshProcess]:
    """Have a fresh process load a saved folder during the block: by plain transformers, and its adapter by plain PEFT.

    Only an adapter on our own head, which PEFT alone cannot put on its encoder, is loaded by this package there.

    Args:
        folder: of the artefact.
        record: what lies in it.
        base: the folder of the encoder that an adapter belongs to; None: adapters are left out.

    Raises:
        UserError: if the folder holds no answers to compare with, or code that is not ours.
    """
    job, wanted = _job(folder)
    adapter = folder / ADAPTER if record.merged else folder
    plain = base is not None and record.encoder.head == "native" and (adapter / ADAPTER_WEIGHTS).is_file()
    job |= {
        "whole": record.merged,
        "adapter": str(adapter) if plain else None,
        "base": str(base) if plain else None,
        "entries": entries_of(read_json(base / "config.json"), record.encoder.depth) if plain and base else {},
    }
    # -P: the folder of that file, which is this package, must not be where it imports from.
    asks = ["-P", answers.__file__] if record.merged or plain else ["-c", _OURS]
    with tempfile.TemporaryDirectory() as own, (Path(own) / "errors").open("w+", encoding="utf-8") as errors:
        environment = {key: value for key, value in os.environ.items() if key not in _RANKS}
        environment |= {
            "HF_HUB_OFFLINE": "1",  # a folder that needs the Hub is not whole
            "HF_MODULES_CACHE": str(Path(own) / "modules"),  # where transformers copies the code of our own head
            "CUDA_VISIBLE_DEVICES": "",  # the device is in use by whoever asks
            "PYTHONWARNINGS": "ignore",
        }
        process = subprocess.Popen(
            [sys.executable, *asks],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        )
        try:
            assert process.stdin
            with contextlib.suppress(BrokenPipeError):  # it has ended already, and `result` says why
                process.stdin.write(json.dumps(job))
                process.stdin.close()
            process.stdin = None  # or `communicate` would flush it
            yield FreshProcess(process, errors, wanted, record)
        finally:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()


def _job(folder: Path) -> tuple[dict[str, Any], np.ndarray]:
    """Return what to ask, and the answers that are wanted, float64 (texts, outputs)."""
    path = folder / ANSWERS
    content = read_json(path)
    if not content:
        raise UserError(f"{path} is missing, so nobody can tell whether the model is what was saved; save it again")
    try:
        wanted = np.asarray(content.pop("logits"), np.float64)
        job = {key: content[key] for key in ("texts", "pairs", "truncation")}
        if wanted.ndim != 2 or len(wanted) != len(job["texts"]):
            raise ValueError("not one row of logits a text")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error}); save the model again") from error
    return {"folder": str(folder), **job, "own_head": _has_our_head(folder), "outputs": wanted.shape[1]}, wanted


def _has_our_head(folder: Path) -> bool:
    """Return whether the head is ours, whose code lies in the folder and is going to be run.

    Raises:
        UserError: if it is other code than this package has: the folder may come from anywhere.
    """
    config = read_json(folder / "config.json")
    if config.get("model_type") != POOLED:
        return False
    ours = Path(encoder.__path__[0])
    changed = [file for file in folder.rglob("*.py") if file.read_bytes() != _bytes(ours / file.relative_to(folder))]
    if changed or config.get("auto_map") != OUR_CODE:
        what = changed[0] if changed else f"auto_map in {folder / 'config.json'}"
        raise UserError(f"{what} is not the code of this version of nlp_transfer; adapt or save the model again")
    return True


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
