"""Which head an encoder gets where the settings leave it open, and which one a model that is gone on from has."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from nlp_transfer.encoder.heads import suggested_pooling
from nlp_transfer.encoder.source import POOLED, Source, read_json
from nlp_transfer.errors import UserError
from nlp_transfer.settings import EncoderSettings
from nlp_transfer.strategies import Strategy
from nlp_transfer.wording import counted

if TYPE_CHECKING:
    from nlp_transfer.data.corpus import Corpus
    from nlp_transfer.encoder.classifier import Classifier

# Options of the pooled head, and the values with which they ask for nothing.
_USUAL: dict[str, tuple[Any, ...]] = {
    "pooling": ("auto",),
    "layers": ("auto", "last"),
    "combine": ("mix",),
    "hidden": (0,),
    "pairs": ("auto", "joint"),
}
_OF_THE_HEAD = ("pooling", "layers", "combine", "hidden", "head_dropout")  # as `PooledConfig` calls them, too


def resolve_encoder(encoder: EncoderSettings, strategy: Strategy, source: Source, *, pair: bool) -> EncoderSettings:
    """Return the settings with a head and layers where the recipe leaves them open.

    A sentence encoder says how its token vectors become one; there, and wherever the encoder stays frozen, pooled token
    vectors carry far more than the first token's, on which most native heads rest. What reads the texts of a pair alone
    is a pooled head as well. A frozen encoder is read at several layers, for it cannot move what the task needs to the
    last one.

    Raises:
        UserError: for options of the pooled head beside a native one.
    """
    if encoder.depth == 0:
        encoder = _bare(encoder)
    asked = [key for key, usual in _USUAL.items() if getattr(encoder, key) not in usual]
    head, layers = encoder.head, encoder.layers
    if head == "auto":
        pooling = suggested_pooling(source.folder)
        alone = pair and pooling is not None and encoder.pairs == "auto"
        head = "pooled" if strategy.frozen or asked or alone or pooling not in (None, "cls") else "native"
    elif head == "native" and asked:
        raise UserError(f"encoder.{asked[0]} belongs to encoder.head=pooled; with head=native it would mean nothing")
    if layers == "auto" and strategy.frozen and head == "pooled":
        layers = "spread"
    return dataclasses.replace(encoder, head=head, layers=layers)


def kept_head(encoder: EncoderSettings, source: Source) -> EncoderSettings:
    """Return the settings with the head of the model in the folder, which is kept with what it knows.

    Raises:
        UserError: for settings that ask for another one.
    """
    content = read_json(source.folder / "config.json")
    own: dict[str, Any] = {"head": "native"}
    if content["model_type"] == POOLED:
        own = {key: content[key] for key in _OF_THE_HEAD}
        own |= {"head": "pooled", "pairs": "siamese" if content["siamese"] else "joint"}
    usual = _USUAL | {"head": ("auto",), "depth": (None,), "head_dropout": (None,), "pretrained": (True,)}
    for key, values in usual.items():
        asked = getattr(encoder, key)
        if asked not in values and asked != own.get(key):
            raise UserError(
                f"encoder.{key}={asked}: with continual.labels=all the head stays the one of {encoder.name}; leave it "
                "out, or set continual.labels=data"
            )
    return dataclasses.replace(encoder, **own)


def solves_head(strategy: Strategy, classifier: Classifier, corpus: Corpus) -> bool:
    """Return whether the output layer is solved on frozen features before anything else is done.

    One that knows labels already is kept, unless nothing but that layer learns and all labels have rows to solve it by.
    """
    kept = classifier.known and not (strategy.frozen and not corpus.absent_labels)
    return strategy.solves_head and not kept


def kept_words(classifier: Classifier, corpus: Corpus) -> list[str]:
    """Return what becomes of the output layer of a model that is gone on from, in a sentence; of others nothing."""
    new = corpus.task.outputs - classifier.known
    if not classifier.known:
        return []
    start = f"; {counted(new, 'new label')} behind them, at the means of their features" if new else ""
    return [f"head: {counted(classifier.known, 'known label')} as in the model that is gone on from{start}"]


def _bare(encoder: EncoderSettings) -> EncoderSettings:
    """Return the settings of an encoder without layers: no token has seen another, so that all must be read."""
    for key, value, fits in (("head", encoder.head, "pooled"), ("pooling", encoder.pooling, "mean")):
        if value not in ("auto", fits, "max"):
            raise UserError(
                f"encoder.{key}={value} reads a token that has not seen the text, for encoder.depth=0 leaves no layer "
                f"that would tell it: take encoder.{key}={fits}"
            )
    return dataclasses.replace(encoder, head="pooled", pooling="max" if encoder.pooling == "max" else "mean")
