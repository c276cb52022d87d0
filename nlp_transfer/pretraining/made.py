"""The folder of an encoder that was pretrained further: how it is written, what it says of itself, how it is found."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from nlp_transfer.disk import appearing, remove
from nlp_transfer.encoder.classifier import quiet
from nlp_transfer.encoder.heads import fresh_of, loading, shorten
from nlp_transfer.encoder.pretrained import Pretrained
from nlp_transfer.encoder.source import PATTERNS, RECORD, Source, read_json, weights_digest
from nlp_transfer.errors import UserError
from nlp_transfer.plain import checked
from nlp_transfer.settings import EncoderSettings

MARK = "pretraining.json"
ENCODER = "encoder"  # in the folder of the run
_SPARE = ".spare"  # in the run's own copy, while the cache has the same


def files_beside(folder: Path) -> list[Path]:
    """Return the files of an encoder but its weights: configuration, tokenizer, how its states are pooled."""
    weights = ("model*.safetensors", "*.index.json", MARK)
    found = {path for pattern in PATTERNS for path in folder.glob(pattern) if path.is_file()}
    return sorted(path for path in found if not any(path.match(pattern) for pattern in weights))


def write_encoder(
    folder: Path, model: Any, settings: EncoderSettings, source: Source, *, key: str, origin: str, **told: Any
) -> None:
    """Write the encoder of a masked-language model, without its head, as a folder that anybody's transformers loads.

    What the model has no part of, such as a pooler, stays as it was in the checkpoint, if that counts.

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
    with quiet():
        whole, info = AutoModel.from_pretrained(source.folder, config=config, **loading(settings))
    learned = {name: tensor.detach().cpu() for name, tensor in model.base_model.state_dict().items()}
    missing = fresh_of(info)
    kept = {name: tensor for name, tensor in whole.state_dict().items() if settings.pretrained and name not in missing}
    assert learned.keys() <= whole.state_dict().keys(), "the encoder under one head is that under another"
    with appearing(folder, MARK, "pretrained encoder", refused=(OSError, SafetensorError)) as making, quiet():
        whole.save_pretrained(making, state_dict=kept | learned)
        for path in files_beside(source.folder):
            if path.name != "config.json" or path.parent != source.folder:
                target = making / path.relative_to(source.folder)
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, target)
        about = dataclasses.asdict(Pretrained(sha256=weights_digest(making), **told))
        (making / MARK).write_text(
            json.dumps({"key": key, "origin": origin, **about}, indent=2) + "\n", encoding="utf-8"
        )


def copy_encoder(made: Path, folder: Path) -> None:
    """Copy such a folder.

    Raises:
        UserError: if that cannot be written.
    """
    with appearing(folder, MARK, "pretrained encoder") as making:
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
