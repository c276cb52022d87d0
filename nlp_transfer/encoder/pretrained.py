"""What an encoder learned between its release and a run: plain values, of which others tell."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Masked-language modelling on texts of the task.

    Attributes:
        sha256: of the weights that it made.
        texts: that were read.
        epochs: passes over them.
        new_head: whether what guesses was new, and had to learn that first.
        held_out: texts that were not read, but measured.
        before: the loss on these before the first step, nats a masked token.
        after: the same after the last step.
    """

    sha256: str
    texts: int
    epochs: float
    new_head: bool
    held_out: int
    before: float
    after: float
