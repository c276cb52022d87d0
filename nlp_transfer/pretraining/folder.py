"""The folder of a further pretrained encoder: writing, copying and finding it, and the file that describes it."""

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
from nlp_transfer.encoder.heads import limit_depth, loading_options, new_parameters
from nlp_transfer.encoder.pretrained import Pretrained
from nlp_transfer.encoder.source import PATTERNS, RECORD, Source, read_json, weights_digest
from nlp_transfer.errors import UserError
from nlp_transfer.machine.disk import atomic_folder, remove, write_json
from nlp_transfer.settings import EncoderSettings

MARK = "pretraining.json"
ENCODER = "encoder"  # in the folder of the run
_SPARE = ".spare"  # marks the copy in a run folder as redundant, because the cache has the same


def files_beside(folder: Path) -> list[Path]:
    """Return the files of an encoder except its weights: configuration, tokenizer, pooling.

    Files that describe a model of ours are left out, because they do not apply to a model made of it.
    """
    others = ("model*.safetensors", "*.index.json", MARK, RECORD, ANSWERS)
    files = {path for pattern in PATTERNS for path in folder.glob(pattern) if path.is_file()}
    return sorted(path for path in files if not any(path.match(pattern) for pattern in others))


def copy_beside(folder: Path, target: Path) -> None:
    """Copy the files of an encoder, except weights and configuration, to the folder of an encoder that was made of it.

    Raises:
        OSError: if they cannot be written.
    """
    for path in files_beside(folder):
        if path.name != "config.json" or path.parent != folder:
            copied = target / path.relative_to(folder)
            copied.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copied)
    if max_tokens := read_json(folder / RECORD).get("max_tokens"):  # a tokenizer of ours may truncate to fewer
        config = read_json(target / "tokenizer_config.json") | {"model_max_length": max_tokens}
        write_json(target / "tokenizer_config.json", config)


def write_encoder(
    folder: Path, model: Any, settings: EncoderSettings, source: Source, *, key: str, origin: str, **facts: Any
) -> None:
    """Write the encoder of a masked-language model as a folder that transformers loads.

    Parts that the model lacks, such as a pooler or a classification head, are kept from the original checkpoint, unless
    the encoder was randomly initialised; layers that such a head shares with the head of the model come from the model.

    Args:
        folder: to write; it appears completely or not at all.
        model: the masked-language model.
        settings: with which it was loaded.
        source: the original encoder.
        key: identifies everything that determines the weights.
        origin: the same except device and code.
        facts: the values of `Pretrained` except the digest.

    Raises:
        UserError: if the folder cannot be written.
    """
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False)
    limit_depth(config, settings, native=True)
    trained = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    encoder = {name: tensor.detach().cpu() for name, tensor in model.base_model.state_dict().items()}
    with quiet(), torch.random.fork_rng(devices=[]):
        whole, info = AutoModel.from_pretrained(source.folder, config=config, **loading_options(settings))
        missing = new_parameters(info)
        kept = {name: t for name, t in whole.state_dict().items() if settings.pretrained and name not in missing}
        assert encoder.keys() <= whole.state_dict().keys(), "the encoder has the same parameters under any head"
        weights = kept | encoder
        classifier, head = _with_head(config, settings, source, trained)
    if head:
        prefix = classifier.base_model_prefix
        whole, weights = classifier, {f"{prefix}.{name}": tensor for name, tensor in weights.items()} | head
    with atomic_folder(folder, MARK, "pretrained encoder", refused=(OSError, SafetensorError)) as making, quiet():
        whole.save_pretrained(making, state_dict=weights)
        copy_beside(source.folder, making)
        about = dataclasses.asdict(Pretrained(sha256=weights_digest(making), **facts))
        write_json(making / MARK, {"key": key, "origin": origin, **about})


def _with_head(
    config: Any, settings: EncoderSettings, source: Source, trained: dict[str, Tensor]
) -> tuple[Any, dict[str, Tensor]]:
    """Return the model with its native classification head, and the weights of that head that are not random."""
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoModelForSequenceClassification

    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return None, {}
    classifier, info = AutoModelForSequenceClassification.from_pretrained(
        source.folder, config=copy.deepcopy(config), **loading_options(settings)
    )
    missing, base = new_parameters(info), f"{classifier.base_model_prefix}."
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
    """Copy the folder of a pretrained encoder.

    Raises:
        UserError: if it cannot be written.
    """
    with atomic_folder(folder, MARK, "pretrained encoder") as making:
        shutil.copytree(made, making, dirs_exist_ok=True, ignore=shutil.ignore_patterns("entry.json"))


def read_encoder(folder: Path, source: Source, **expected: str) -> Source | None:
    """Return the encoder in a folder; None if it is another one, or damaged.

    Args:
        folder: of the encoder.
        source: the original encoder.
        expected: its `key` or `origin`, as for `write_encoder`.
    """
    try:
        about = read_json(folder / MARK)
        names = {name: about.pop(name, None) for name in ("key", "origin")}
        if any(names[name] != value for name, value in expected.items()):
            return None
        pretrained = checked(Pretrained, about, "")
        is_intact = weights_digest(folder) == pretrained.sha256
    except (TypeError, UserError):
        return None
    return dataclasses.replace(source, folder=folder, pretrained=pretrained) if is_intact else None


def key_of(folder: Path) -> str:
    """Return the key with which a pretrained encoder was written."""
    return str(read_json(folder / MARK).get("key"))


def beside(folder: Path, sha256: str) -> Path | None:
    """Return the folder of the encoder with these weights beside a saved model, or None; both may have been moved."""
    place = folder.resolve().parent / ENCODER
    return place if read_json(place / MARK).get("sha256") == sha256 else None


def set_spare(folder: Path, *, spare: bool) -> None:
    """Mark a copy in a run folder as redundant, or remove the mark."""
    if spare:
        (folder / _SPARE).touch()
    else:
        (folder / _SPARE).unlink(missing_ok=True)


def remove_spare(run: Path) -> None:
    """Remove the encoder from the folder of a finished run, unless it is the only copy or an adapter needs it.

    An unmerged adapter always needs it, and the cache may lose its copy.
    """
    if (run / ENCODER / _SPARE).is_file() and read_json(run / "model" / RECORD).get("merged", True):
        remove(run / ENCODER)
