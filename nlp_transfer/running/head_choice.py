"""Which head a classifier gets when the settings leave it open, or when it continues from an adapted model."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from nlp_transfer.encoder.heads import has_own_head, suggested_pooling
from nlp_transfer.encoder.source import POOLED, Source, read_json
from nlp_transfer.errors import UserError
from nlp_transfer.settings import EncoderSettings
from nlp_transfer.strategies import Strategy
from nlp_transfer.wording import counted

if TYPE_CHECKING:
    from nlp_transfer.data.corpus import Corpus
    from nlp_transfer.encoder.classifier import Classifier

# Options of the pooled head, and their default values.
_DEFAULTS: dict[str, tuple[Any, ...]] = {
    "pooling": ("auto",),
    "layers": ("auto", "last"),
    "combine": ("mix",),
    "hidden": (0,),
    "pairs": ("auto", "joint"),
}
_HEAD_OPTIONS = ("pooling", "layers", "combine", "hidden", "head_dropout")  # also names of `PooledConfig`


def resolve_encoder(encoder: EncoderSettings, strategy: Strategy, source: Source, *, pair: bool) -> EncoderSettings:
    """Return the settings with `head` and `layers` resolved where they are "auto".

    A sentence encoder declares how it pools token vectors. There, and with any frozen encoder, pooled token vectors are
    far more informative than the first token's, which most native heads use. Reading the texts of a pair alone takes a
    pooled head, too, and so does an architecture without a head. Of a frozen encoder several layers are read, for it
    cannot move what the task needs to the last.

    Raises:
        UserError: for options of the pooled head beside a native one.
    """
    if encoder.depth == 0:
        encoder = _without_layers(encoder)
    changed = [key for key, defaults in _DEFAULTS.items() if getattr(encoder, key) not in defaults]
    head, layers = encoder.head, encoder.layers
    if head == "auto":
        pooling = suggested_pooling(source.folder)
        alone = pair and pooling is not None and encoder.pairs == "auto"
        is_pooled = strategy.frozen or changed or alone or pooling not in (None, "cls")
        has_native = encoder.trust_remote_code or has_own_head(source.folder)
        head = "pooled" if is_pooled or not has_native else "native"
    elif head == "native" and changed:
        raise UserError(f"encoder.{changed[0]} belongs to encoder.head=pooled; with head=native it would mean nothing")
    if layers == "auto" and strategy.frozen and head == "pooled":
        layers = "spread"
    return dataclasses.replace(encoder, head=head, layers=layers)


def kept_head(encoder: EncoderSettings, source: Source) -> EncoderSettings:
    """Return the settings with the head of the adapted model in the source's folder.

    Raises:
        UserError: for settings that ask for another head.
    """
    content = read_json(source.folder / "config.json")
    kept: dict[str, Any] = {"head": "native"}
    if content["model_type"] == POOLED:
        kept = {key: content[key] for key in _HEAD_OPTIONS}
        kept |= {"head": "pooled", "pairs": "siamese" if content["siamese"] else "joint"}
    defaults = _DEFAULTS | {"head": ("auto",), "depth": (None,), "head_dropout": (None,), "pretrained": (True,)}
    for key, values in defaults.items():
        value = getattr(encoder, key)
        if value not in values and value != kept.get(key):
            raise UserError(
                f"encoder.{key}={value}: with continual.labels=all the head stays the one of {encoder.name}; leave it "
                "out, or set continual.labels=data"
            )
    return dataclasses.replace(encoder, **kept)


def solves_head(strategy: Strategy, classifier: Classifier, corpus: Corpus) -> bool:
    """Return whether the output layer is fitted on frozen features before anything else is trained.

    One that knows some labels already is kept, unless only that layer is trained and every label has training rows.
    """
    is_kept = classifier.known and not (strategy.frozen and not corpus.absent_labels)
    return strategy.solves_head and not is_kept


def kept_words(classifier: Classifier, corpus: Corpus) -> list[str]:
    """Return a sentence on the output layer of an adapted model from which a run continues; else nothing."""
    new = corpus.task.outputs - classifier.known
    if not classifier.known:
        return []
    start = f"; {counted(new, 'new label')} behind them, at the means of their features" if new else ""
    return [f"head: {counted(classifier.known, 'known label')} as in the model that this run continues{start}"]


def _without_layers(encoder: EncoderSettings) -> EncoderSettings:
    """Return the settings for `depth=0`, where token vectors know nothing of each other and all have to be pooled."""
    for key, value, suitable in (("head", encoder.head, "pooled"), ("pooling", encoder.pooling, "mean")):
        if value not in ("auto", suitable, "max"):
            raise UserError(
                f"encoder.{key}={value} reads a token that has not seen the text, for encoder.depth=0 leaves no layer "
                f"that would tell it: take encoder.{key}={suitable}"
            )
    return dataclasses.replace(encoder, head="pooled", pooling="max" if encoder.pooling == "max" else "mean")
