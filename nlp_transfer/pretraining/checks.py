"""Which settings of a pretraining no run can use, whatever the data and the encoder are; it imports no torch."""

from __future__ import annotations

import math

from nlp_transfer.errors import UserError, at_least, one_of, positive
from nlp_transfer.settings import Settings

TEXTS = ("all", "train", "unlabelled")


def check_pretraining(settings: Settings) -> None:
    """Check the `pretraining` group by itself, and beside what else hangs on it.

    Raises:
        UserError: naming the key, its value and what it may be.
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
    asked = f"pretraining.epochs={own.epochs:g}"
    if own.texts == "unlabelled" and settings.data.unlabelled is None:
        raise UserError("pretraining.texts=unlabelled needs data.unlabelled=FILE; or take the texts of the rows, train")
    if encoder.depth == 0:
        raise UserError(f"{asked}: encoder.depth=0 leaves no layer that sees the words around a masked one")
    if encoder.trust_remote_code:
        raise UserError(f"{asked}: an encoder that runs code of its own is not pretrained; set it to 0")
    if settings.hub.push and settings.hub.layout == "adapter":
        raise UserError(
            f"hub.layout=adapter pushes an adapter alone, and nobody else has the encoder that {asked} makes; take "
            "hub.layout=merged"
        )
