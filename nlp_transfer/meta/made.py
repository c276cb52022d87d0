"""The folder of an encoder that was learned in episodes: how it is written, and what it says of itself."""

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
from nlp_transfer.pretraining.made import copy_beside

MARK = "meta.json"


@dataclass(frozen=True, kw_only=True)
class MetaLearned:
    """What such an encoder was made of.

    Attributes:
        encoder: name of the encoder before.
        before: sha256 of its weights.
        sha256: of the weights in the folder.
        settings: the `meta` group.
        seed: of the run.
        data: where the rows come from.
        fingerprint: of the rows.
        outcome: see `measuring.Outcome`; the classes are named there.
    """

    encoder: str
    before: str
    sha256: str
    settings: dict[str, Any]
    seed: int
    data: str
    fingerprint: str
    outcome: dict[str, Any]


def write_encoder(folder: Path, model: Any, source: Source, **told: Any) -> None:
    """Write an encoder as a folder that anybody's transformers and sentence-transformers load.

    Args:
        folder: to write; it appears whole or not at all.
        model: a pooled model, whose encoder is written; its head is not.
        source: of the weights before.
        told: values of `MetaLearned` but for the digests and the name.

    Raises:
        UserError: if the folder cannot be written.
    """
    with atomic_folder(folder, MARK, "encoder", refused=(OSError, SafetensorError)) as making, quiet():
        model.encoder.save_pretrained(making)
        copy_beside(source.folder, making)
        _write_pooling(making, model.config.pooling, encoder_config(model.encoder.config).hidden_size)
        about = MetaLearned(encoder=source.public_name, before=source.sha256, sha256=weights_digest(making), **told)
        write_json(making / MARK, dataclasses.asdict(about))


def check_whole(folder: Path) -> None:
    """Refuse such an encoder that lacks a file, or holds other weights than were saved.

    Raises:
        UserError: naming the file or the folder.
    """
    check_layout(folder)
    if weights_digest(folder) != read_json(folder / MARK).get("sha256"):
        raise UserError(f"the weights in {folder} are not what was saved ({MARK} has another sha256)")


def _write_pooling(folder: Path, pooling: str, width: int) -> None:
    """Say in the words of sentence-transformers how token vectors become one: so they were compared, and will be."""
    mode = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens", "last": "lasttoken"}[pooling]
    modes = {f"pooling_mode_{each}": each == mode for each in ("mean_tokens", "cls_token", "max_tokens", "lasttoken")}
    (folder / "1_Pooling").mkdir(exist_ok=True)
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **modes})
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"))
    modules = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (path, kind) in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)
