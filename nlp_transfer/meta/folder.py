"""The folder of a meta-learned encoder: writing it, and the file that describes it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from nlp_transfer.encoder.classifier import quiet
from nlp_transfer.encoder.pooled_config import encoder_config
from nlp_transfer.encoder.source import Source, check_layout, read_json, weights_digest
from nlp_transfer.errors import UserError
from nlp_transfer.machine.disk import atomic_folder, write_json
from nlp_transfer.pretraining.folder import copy_beside

MARK = "meta.json"


@dataclass(frozen=True, kw_only=True)
class MetaLearned:
    """The origin of a meta-learned encoder.

    Attributes:
        encoder: name of the original encoder.
        before: sha256 of its weights.
        sha256: of the weights in the folder.
        settings: the `meta` group.
        seed: of the run.
        data: source of the rows.
        fingerprint: of the rows.
        outcome: see `measuring.MetaOutcome`, which also names the classes.
    """

    encoder: str
    before: str
    sha256: str
    settings: dict[str, Any]
    seed: int
    data: str
    fingerprint: str
    outcome: dict[str, Any]


def write_encoder(folder: Path, model: Any, source: Source, **origin: Any) -> None:
    """Write an encoder in the format of transformers and sentence-transformers.

    Args:
        folder: to write; it appears completely or not at all.
        model: a pooled model, whose encoder is written without the head.
        source: the original encoder.
        origin: the values of `MetaLearned` except digests and name.

    Raises:
        UserError: if the folder cannot be written.
    """
    with atomic_folder(folder, MARK, "encoder", refused=(OSError, SafetensorError)) as making, quiet():
        model.encoder.save_pretrained(making)
        copy_beside(source.folder, making)
        _write_pooling(making, model.config.pooling, encoder_config(model.encoder.config).hidden_size)
        about = MetaLearned(encoder=source.public_name, before=source.sha256, sha256=weights_digest(making), **origin)
        write_json(making / MARK, dataclasses.asdict(about))


def check_whole(folder: Path) -> None:
    """Refuse a meta-learned encoder that lacks a file, or whose weights were changed.

    Raises:
        UserError: naming the file or the folder.
    """
    check_layout(folder)
    if weights_digest(folder) != read_json(folder / MARK).get("sha256"):
        raise UserError(f"the weights in {folder} are not what was saved ({MARK} has another sha256)")


def _write_pooling(folder: Path, pooling: str, width: int) -> None:
    """Write the pooling configuration of sentence-transformers, with the pooling of the meta-learning."""
    mode = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens", "last": "lasttoken"}[pooling]
    modes = {f"pooling_mode_{each}": each == mode for each in ("mean_tokens", "cls_token", "max_tokens", "lasttoken")}
    (folder / "1_Pooling").mkdir(exist_ok=True)
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **modes})
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"))
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)
