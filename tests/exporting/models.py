"""Saved models to export, of any family, head and task, without a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nlp_transfer.artefact.folder import save
from nlp_transfer.artefact.record import Record
from nlp_transfer.data.task import Task
from nlp_transfer.data.tokens import TokenSpec
from nlp_transfer.encoder.bag_of_embeddings import forget_positions
from nlp_transfer.encoder.classifier import load_classifier
from nlp_transfer.settings import EncoderSettings
from nlp_transfer.strategies import Adapter
from tests.encoder.conftest import stir
from tests.encoder.families import tiny_encoder

LABELS = ("refund", "delivery", "praise")
SINGLE = Task("single_label", LABELS, pair=False)


def saved_model(
    folder: Path,
    family: str,
    *,
    task: Task = SINGLE,
    head: str = "native",
    pairs: str = "auto",
    pooling: str = "auto",
    hidden: int = 0,
    chunk: bool = False,
    adapter: Adapter | None = None,
    merged: bool = True,
    **config: Any,
) -> Path:
    """Write a tiny model with weights large enough that every mistake shows in the logits; return its folder.

    `config` goes into the encoder's, e.g. ``num_hidden_layers=1``.
    """
    name = str(tiny_encoder(folder, family, **config))
    settings = EncoderSettings(name=name, head=head, pairs=pairs, pooling=pooling, hidden=hidden)
    classifier = load_classifier(settings, task, head=head, seed=0)
    stir(classifier.model)
    if adapter is not None:
        adapter.apply(classifier)
        stir(classifier.model)
    forget_positions(classifier.model)  # where it has no layers
    limit = 24 if chunk else min(classifier.max_tokens, 64)
    spec = TokenSpec(
        max_length=16 if not chunk else 24,
        limit=limit,
        truncation_side="right",
        pair_truncation="longest_first",
        chunk=chunk,
        overlap=4 if chunk else 0,
        max_windows=None,
    )
    record = Record(
        task=task,
        tokens=spec,
        roles={"text": "text", "label": "label"},
        encoder=EncoderSettings(
            name=settings.name, head=head, pairs=pairs, sha256=classifier.source.sha256, packed=None
        ),
        max_tokens=classifier.max_tokens,
        merged=merged,
        data={"source": "rows", "fingerprint": "0"},
    )
    save(classifier, record, folder / "model")
    return folder / "model"
