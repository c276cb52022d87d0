"""The folder of an encoder that was pretrained further: how it is written, what it says of itself, how it is found."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from nlp_transfer.composing.plain import checked
from nlp_transfer.encoder.answers import ANSWERS
from nlp_transfer.encoder.classifier import quiet
from nlp_transfer.encoder.heads import fresh_of, loading, shorten
from nlp_transfer.encoder.pretrained import Pretrained
from nlp_transfer.encoder.source import PATTERNS, RECORD, Source, read_json, weights_digest
from nlp_transfer.errors import UserError
from nlp_transfer.machine.disk import atomic_folder, remove, write_json
from nlp_transfer.settings import EncoderSettings

MARK = "pretraining.json"
ENCODER = "encoder"  # in the folder of the run
_SPARE = ".spare"  # in the run's own copy, while the cache has the same


def files_beside(folder: Path) -> list[Path]:
    """Return the files of an encoder but its weights: configuration, tokenizer, how its states are pooled.

    What a run of ours says of itself beside its model does not hold for another one.
    """
    others = ("model*.safetensors", "*.index.json", MARK, RECORD, ANSWERS)
    found = {path for pattern in PATTERNS for path in folder.glob(pattern) if path.is_file()}
    return sorted(path for path in found if not any(path.match(pattern) for pattern in others))


def copy_beside(folder: Path, target: Path) -> None:
    """Copy the files of an encoder but its weights and its configuration beside those of one that was made of it.

    Raises:
        OSError: if they cannot be written.
    """
    for path in files_beside(folder):
        if path.name != "config.json" or path.parent != folder:
            copied = target / path.relative_to(folder)
            copied.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copied)
    if longest := read_json(folder / RECORD).get("max_tokens"):  # the tokenizer beside it may cut earlier
        own = read_json(target / "tokenizer_config.json") | {"model_max_length": longest}
        write_json(target / "tokenizer_config.json", own)


def write_encoder(
    folder: Path, model: Any, settings: EncoderSettings, source: Source, *, key: str, origin: str, **told: Any
) -> None:
    """Write the encoder of a masked-language model as a folder that anybody's transformers loads.

    What the model has no part of, such as a pooler or a head for classification, stays as it was in the checkpoint, if
    that counts; what such a head shares with the one that guesses words comes from there.

    Args:
        folder: to write; it appears whole or not at all.
        model: the model.
        settings: with which it was loaded.
        source: of its weights before.
        key: says all that the weights hang on.
        origin: the same but for device and code.
        told: values of `Pretrained` but for the digest.

    Raises:
        UserError: if the folder cannot be written.
    """
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False)
    shorten(config, settings, native=True)
    trained = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    learned = {name: tensor.detach().cpu() for name, tensor in model.base_model.state_dict().items()}
    with quiet(), torch.random.fork_rng(devices=[]):
        whole, info = AutoModel.from_pretrained(source.folder, config=config, **loading(settings))
        missing = fresh_of(info)
        kept = {name: t for name, t in whole.state_dict().items() if settings.pretrained and name not in missing}
        assert learned.keys() <= whole.state_dict().keys(), "the encoder under one head is that under another"
        weights = kept | learned
        classifier, head = _with_head(config, settings, source, trained)
    if head:
        prefix = classifier.base_model_prefix
        whole, weights = classifier, {f"{prefix}.{name}": tensor for name, tensor in weights.items()} | head
    with atomic_folder(folder, MARK, "pretrained encoder", refused=(OSError, SafetensorError)) as making, quiet():
        whole.save_pretrained(making, state_dict=weights)
        copy_beside(source.folder, making)
        about = dataclasses.asdict(Pretrained(sha256=weights_digest(making), **told))
        write_json(making / MARK, {"key": key, "origin": origin, **about})


def _with_head(
    config: Any, settings: EncoderSettings, source: Source, trained: dict[str, Tensor]
) -> tuple[Any, dict[str, Tensor]]:
    """Return the model under its own head for classification, and what is known of that head: trained, or as it was."""
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoModelForSequenceClassification

    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return None, {}
    classifier, info = AutoModelForSequenceClassification.from_pretrained(
        source.folder, config=copy.deepcopy(config), **loading(settings)
    )
    missing, base = fresh_of(info), f"{classifier.base_model_prefix}."
    head = {}
    for name, tensor in classifier.state_dict().items():
        if name.startswith(base):
            continue
        if name in trained and trained[name].shape == tensor.shape:
            head[name] = trained[name]
        elif settings.pretrained and name not in missing:
            head[name] = tensor
    return classifier, head


def copy_encoder(made: Path, folder: Path) -> None:
    """Copy such a folder.

    Raises:
        UserError: if that cannot be written.
    """
    with atomic_folder(folder, MARK, "pretrained encoder") as making:
        shutil.copytree(made, making, dirs_exist_ok=True, ignore=shutil.ignore_patterns("entry.json"))


def read_encoder(folder: Path, source: Source, **said: str) -> Source | None:
    """Return the encoder in such a folder; None where it is another, or damaged.

    Args:
        folder: of the encoder.
        source: of its weights before.
        said: its key or its origin, by that name, as for `write_encoder`.
    """
    try:
        about = read_json(folder / MARK)
        names = {name: about.pop(name, None) for name in ("key", "origin")}
        if any(names[name] != value for name, value in said.items()):
            return None
        pretrained = checked(Pretrained, about, "")
        whole = weights_digest(folder) == pretrained.sha256
    except (TypeError, UserError):
        return None
    return dataclasses.replace(source, folder=folder, pretrained=pretrained) if whole else None


def key_of(folder: Path) -> str:
    """Return the key with which such a folder was written."""
    return str(read_json(folder / MARK).get("key"))


def beside(folder: Path, sha256: str) -> Path | None:
    """Return where the encoder with these weights lies beside an artefact, wherever both were moved to; or None."""
    place = folder.resolve().parent / ENCODER
    return place if read_json(place / MARK).get("sha256") == sha256 else None


def set_spare(folder: Path, *, spare: bool) -> None:
    """Write down whether a run's own copy is not the only one."""
    if spare:
        (folder / _SPARE).touch()
    else:
        (folder / _SPARE).unlink(missing_ok=True)


def remove_spare(run: Path) -> None:
    """Take the encoder out of the folder of a finished run, unless it is the only copy or an adapter is put on it.

    Such an adapter needs it for good, and the cache may lose it.
    """
    if (run / ENCODER / _SPARE).is_file() and read_json(run / "model" / RECORD).get("merged", True):
        remove(run / ENCODER)
