"""Which head reads which layers of an encoder, where a recipe leaves that open; it loads nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

from nlp_transfer.encoder.heads import suggested_pooling
from nlp_transfer.encoder.source import Source
from nlp_transfer.errors import UserError
from nlp_transfer.settings import EncoderSettings
from nlp_transfer.strategies import Strategy


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


def _bare(encoder: EncoderSettings) -> EncoderSettings:
    """Return the settings of an encoder without layers: no token has seen another, so that all must be read."""
    for key, value, fits in (("head", encoder.head, "pooled"), ("pooling", encoder.pooling, "mean")):
        if value not in ("auto", fits, "max"):
            raise UserError(
                f"encoder.{key}={value} reads a token that has not seen the text, for encoder.depth=0 leaves no layer "
                f"that would tell it: take encoder.{key}={fits}"
            )
    return dataclasses.replace(encoder, head="pooled", pooling="max" if encoder.pooling == "max" else "mean")


# Options of the pooled head, and the values with which they ask for nothing.
_USUAL: dict[str, tuple[Any, ...]] = {
    "pooling": ("auto",),
    "layers": ("auto", "last"),
    "combine": ("mix",),
    "hidden": (0,),
    "pairs": ("auto", "joint"),
}
