"""Checks of the `pretraining` settings that need no data or encoder; this module imports no torch."""

from __future__ import annotations

import math

from nlp_transfer.errors import UserError, at_least, one_of, positive
from nlp_transfer.settings import Settings

TEXTS = ("all", "train", "unlabelled")


def check_pretraining(settings: Settings) -> None:
    """Check the `pretraining` group by itself, and together with the settings that depend on it.

    Raises:
        UserError: naming the key, its value and the allowed values.
    """
    own, encoder = settings.pretraining, settings.encoder
    one_of(own.texts, TEXTS, "pretraining.texts")
    if not 0 <= own.epochs < math.inf:
        raise UserError(f"pretraining.epochs={own.epochs} must be at least 0; 0: none")
    if not 0 < own.mask < 1:
        raise UserError(f"pretraining.mask={own.mask} must lie between 0 and 1")
    positive(own, "pretraining.", "lr")
    at_least(own, "pretraining.", 1, "batch_size")
    if not own.epochs:
        return
    setting = f"pretraining.epochs={own.epochs:g}"
    if own.texts == "unlabelled" and settings.data.unlabelled is None:
        raise UserError(
            "pretraining.texts=unlabelled needs data.unlabelled=FILE; or set pretraining.texts=train for the texts of "
            "the training rows"
        )
    if encoder.depth == 0:
        raise UserError(f"{setting}: encoder.depth=0 leaves no layer to predict masked words from their context")
    if encoder.trust_remote_code:
        raise UserError(f"{setting}: an encoder that runs code of its own cannot be pretrained; set it to 0")
    if settings.hub.push and settings.hub.layout == "adapter":
        raise UserError(
            f"hub.layout=adapter pushes an adapter alone, without the encoder that {setting} makes; use "
            "hub.layout=merged"
        )
