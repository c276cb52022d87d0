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

from torch import nn

from nlp_transfer.data.task import Task
from nlp_transfer.data.tokens import TokenSpec
from nlp_transfer.encoder.classifier import Classifier
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


def save(classifier: Classifier, record: Record, folder: Path) -> None:
    """Write the artefact; it appears whole under its name or not at all."""
    making = folder.with_name(f".making-{folder.name}")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    _save_weights(classifier, record, making)
    tokenizer = copy.copy(classifier.tokenizer)
    tokenizer.model_max_length = record.tokens.limit
    tokenizer.truncation_side = record.tokens.truncation_side
    tokenizer.save_pretrained(making)
    (making / RECORD).write_text(json.dumps(record.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    making.rename(folder)


def can_merge(model: nn.Module) -> bool:
    """Return whether a model is plain, or wrapped by a PEFT method whose weights can be added to the encoder's."""
    from peft import PeftModel

    return not isinstance(model, PeftModel) or hasattr(model.base_model, "merge_and_unload")


def _save_weights(classifier: Classifier, record: Record, folder: Path) -> None:
    from peft import PeftModel

    model: Any = classifier.model
    if isinstance(model, PeftModel):
        for config in model.peft_config.values():
            config.base_model_name_or_path = classifier.source.name  # a name, not a path of this machine
            config.inference_mode = True
        model.save_pretrained(str(folder / ADAPTER if record.merged else folder))
        (folder / ADAPTER / "README.md").unlink(missing_ok=True)
        (folder / "README.md").unlink(missing_ok=True)
        if not record.merged:
            return
        model = model.merge_and_unload()
        classifier.model = model
    model.config._name_or_path = classifier.source.name
    model.save_pretrained(folder)


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

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if record.merged:
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype="float32", use_safetensors=True)
    else:
        model = _load_adapter(folder, record)
    return model.eval(), tokenizer


def _load_adapter(folder: Path, record: Record) -> Any:
    from peft import PeftModel

    from nlp_transfer.encoder.classifier import load_classifier
    from nlp_transfer.settings import EncoderSettings

    base = EncoderSettings(**record.encoder | {"sha256": record.base["sha256"], "revision": record.base["revision"]})
    classifier = load_classifier(base, record.task, head=record.head, seed=0)
    return PeftModel.from_pretrained(classifier.model, str(folder))
