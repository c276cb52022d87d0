"""The saved folder: what anybody's transformers loads, and the one small file that holds what a config.json cannot.

Layout: ``config.json`` and ``model.safetensors`` of a whole model at the root (an adapter is merged into it and lies
beside it in ``adapter/``), the tokenizer, and ``nlp_transfer.json``. It knows no training.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nlp_transfer.data.task import Task
from nlp_transfer.data.tokens import TokenSpec
from nlp_transfer.encoder.anatomy import sample_rows
from nlp_transfer.encoder.classifier import Classifier, forward
from nlp_transfer.encoder.pooled import register_model
from nlp_transfer.encoder.pooled_config import register_config
from nlp_transfer.errors import UserError

RECORD = "nlp_transfer.json"
ADAPTER = "adapter"
FORMAT = 1


@dataclass(frozen=True)
class Record:
    """What is needed to decide like the trained model and is not in its config.json.

    Attributes:
        task: problem type and label names.
        tokens: how texts become ids.
        roles: role → column name of the data it was trained on.
        base: name, package, revision and sha256 of the encoder it was adapted from.
        head: "native" or "pooled".
        encoder: the `encoder` group it was made with, to rebuild the model under an adapter that is not merged.
        merged: whether the root holds a whole model; if not, the root holds a PEFT adapter for `base`.
        data: source and fingerprint of the data.
    """

    task: Task
    tokens: TokenSpec
    roles: dict[str, str]
    base: dict[str, str | None]
    head: str
    encoder: dict[str, Any]
    merged: bool
    data: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {"format": FORMAT, **plain, "task": self.task.to_json(), "tokens": dataclasses.asdict(self.tokens)}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Record:
        """Read plain values back."""
        values = {f.name: plain[f.name] for f in dataclasses.fields(cls)}
        return cls(**values | {"task": Task.from_json(plain["task"]), "tokens": TokenSpec(**plain["tokens"])})


def save(classifier: Classifier, record: Record, folder: Path) -> Record:
    """Write the artefact; it appears whole under its name or not at all.

    An adapter is merged into the model if `record` says so and the method can: the merged model must answer as the
    adapted one does, which is tried on two rows, for not every method of PEFT keeps that promise.

    Returns:
        The record that was written: `merged` is false where merging was not possible.
    """
    making = folder.with_name(f".making-{folder.name}")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    record = dataclasses.replace(record, merged=_save_weights(classifier, making, merge=record.merged))
    tokenizer = copy.copy(classifier.tokenizer)
    tokenizer.model_max_length = record.tokens.limit
    tokenizer.truncation_side = record.tokens.truncation_side
    tokenizer.save_pretrained(making)
    (making / RECORD).write_text(json.dumps(record.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    making.rename(folder)
    return record


def _save_weights(classifier: Classifier, folder: Path, *, merge: bool) -> bool:
    """Write model.safetensors and config.json, or an adapter alone; return whether a whole model lies in the folder."""
    from peft import PeftModel

    model: Any = classifier.model
    if isinstance(model, PeftModel):
        whole = _merged(model) if merge else None
        for config in model.peft_config.values():
            config.base_model_name_or_path = classifier.source.name  # a name, not a path of this machine
            config.inference_mode = True
        target = folder / ADAPTER if whole is not None else folder
        model.save_pretrained(str(target))
        (target / "README.md").unlink(missing_ok=True)
        if whole is None:
            return False
        model = whole
    model.config._name_or_path = classifier.source.name
    model.save_pretrained(folder)
    return True


def _merged(model: Any) -> Any | None:
    """Return a copy of the model with the adapter in its weights, or None where that is not the same model."""
    rows = sample_rows(model)
    try:
        merged = copy.deepcopy(model).eval().merge_and_unload()
        with torch.inference_mode():
            wanted, found = forward(model.eval(), rows).logits, forward(merged, rows).logits
    except Exception:  # methods that cannot be merged say so in many ways
        return None
    return merged if torch.allclose(wanted, found, rtol=1e-3, atol=1e-3) else None


def read_record(folder: Path) -> Record:
    """Return the record of a saved folder.

    Raises:
        UserError: if the folder is none of ours.
    """
    path = folder / RECORD
    if not path.is_file():
        known = "a run folder (runs/...) or its model/ folder"
        raise UserError(f"{folder} holds no {RECORD}: give {known} made by `nlp-transfer adapt`")
    try:
        return Record.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {error}); it was not written by this version"
        ) from error


def load_model(folder: Path, record: Record) -> tuple[Any, Any]:
    """Return the model, in evaluation mode and float32, and the tokenizer of a saved folder."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    register_config()
    register_model()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if record.merged:
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype="float32", use_safetensors=True, trust_remote_code=False
        )
    else:
        model = _load_adapter(folder, record)
    return model.eval(), tokenizer


def _load_adapter(folder: Path, record: Record) -> Any:
    from peft import PeftModel

    from nlp_transfer.encoder.classifier import load_classifier
    from nlp_transfer.settings import EncoderSettings

    if not record.base["sha256"]:
        raise UserError(f"{folder / RECORD} does not say which weights the adapter belongs to (base.sha256)")
    # A downloaded record is data: it must not decide that code is run.
    verified = {"sha256": record.base["sha256"], "revision": record.base["revision"], "trust_remote_code": False}
    base = EncoderSettings(**record.encoder | verified)
    classifier = load_classifier(base, record.task, head=record.head, seed=0)
    return PeftModel.from_pretrained(classifier.model, str(folder))
