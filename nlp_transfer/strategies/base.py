"""What a strategy is: which parameters learn, how fast, from when on. A strategy never sees a loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from nlp_transfer.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from nlp_transfer.encoder.classifier import Classifier


@dataclass(frozen=True)
class Group:
    """Parameters that share a peak learning rate and a point in training from which they learn.

    Attributes:
        name: for the plan and the log.
        parameters: by qualified name.
        lr: peak learning rate.
        wake: share of the run before which the group's rate is 0. Un-freezing by a rate and not by `requires_grad`,
            because parameters un-frozen after ``accelerator.prepare`` are not synchronised between ranks.
    """

    name: str
    parameters: dict[str, nn.Parameter]
    lr: float
    wake: float = 0.0


class Strategy:
    """Which parameters learn and how fast; what one does not say is as it is here.

    Each says what `apply` and `groups` do, but `Auto`, which another one replaces before they are asked for.

    Attributes:
        frozen: whether all but the output layer stays as it is.
        trains: whether gradient steps are taken.
        solves_head: whether the output layer is fitted before them, on frozen features.
        solver: how it is: "exact" or "prototypes".
        head_last: whether it is fitted again after them.
        adapts: whether an adapter of PEFT is put into the model.
        merge: whether that is written into the weights at the end.
        reserved_tokens: places of the encoder that an adapter fills itself.
        reinit_layers: how many top layers start from random weights.
    """

    frozen: ClassVar[bool] = False
    adapts: ClassVar[bool] = False
    solver: str = "exact"
    head_last: bool = False
    merge: bool = True
    reinit_layers: int = 0

    @property
    def trains(self) -> bool:  # noqa: D102
        return True

    @property
    def solves_head(self) -> bool:  # noqa: D102
        return True

    @property
    def reserved_tokens(self) -> int:  # noqa: D102
        return 0

    def check(self) -> None:
        """Refuse what no encoder could be given.

        Raises:
            UserError: naming the key, its value and what it may be.
        """

    def apply(self, classifier: Classifier) -> None:
        """Freeze, inject adapters, re-initialise: change ``classifier.model`` in place or replace it."""
        raise NotImplementedError

    def groups(self, classifier: Classifier) -> list[Group]:
        """Return every trainable parameter exactly once; called after `apply`."""
        raise NotImplementedError

    def frozen_depth(self, classifier: Classifier) -> int:
        """Return how deep the model is constant.

        0: nothing is; k: the embeddings and k layers; ``ALL_FROZEN``: all but the output layer. What is constant runs
        without dropout and may be computed once.
        """
        return 0


ALL_FROZEN = 10**6


def freeze(classifier: Classifier, names: set[str]) -> None:
    """Stop the named parameters from learning."""
    for name, parameter in classifier.model.named_parameters():
        if name in names:
            parameter.requires_grad_(False)


def check_rates(**rates: float | None) -> None:
    """Refuse learning rates below zero, given by the key of the strategy."""
    for key, rate in rates.items():
        if rate is not None and not rate >= 0:
            raise UserError(f"strategy.{key}={rate} goes uphill; it must be at least 0")


def encoder_width(classifier: Classifier) -> int:
    """Return the width of the encoder's hidden states, on which good learning rates depend; toys count as 256 wide."""
    from nlp_transfer.encoder.pooled_config import encoder_config

    return max(256, encoder_config(classifier.model.config).hidden_size)


def trainable(classifier: Classifier) -> dict[str, nn.Parameter]:
    """Return the parameters that learn, by qualified name."""
    return {name: p for name, p in classifier.model.named_parameters() if p.requires_grad}
