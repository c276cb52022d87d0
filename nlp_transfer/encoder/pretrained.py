"""A record of further pretraining of an encoder before a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Masked-language modelling on texts of the task.

    Attributes:
        sha256: of the resulting weights.
        texts: number of training texts.
        epochs: passes over them.
        new_head: whether the masked-language-modelling head was newly initialised.
        held_out: number of held-out texts.
        before: the loss on held-out texts before the first step, in nats per masked token.
        after: the same after the last step.
    """

    sha256: str
    texts: int
    epochs: float
    new_head: bool
    held_out: int
    before: float
    after: float
