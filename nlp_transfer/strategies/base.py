"""The interface of strategies: which parameters are trained, and at which rates. A strategy never sees a loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from nlp_transfer.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from nlp_transfer.encoder.classifier import Classifier


@dataclass(frozen=True)
class Group:
    """Parameters with a common peak learning rate and start of training.

    Attributes:
        name: for the plan and the log.
        parameters: by qualified name.
        lr: peak learning rate.
        wake: share of the run up to which the learning rate is 0. `requires_grad` does not serve for gradual
            unfreezing: parameters unfrozen after ``accelerator.prepare`` are not synchronised between ranks.
    """

    name: str
    parameters: dict[str, nn.Parameter]
    lr: float
    wake: float = 0.0


class Strategy:
    """Base class of strategies, with the defaults of their properties.

    Subclasses implement `apply` and `groups`, except `Auto`, which is replaced by another strategy before.

    Attributes:
        frozen: whether everything but the output layer is frozen.
        trains: whether gradient steps are taken.
        solves_head: whether the output layer is fitted on frozen features before the gradient steps.
        solver: by which it is fitted, "exact" or "prototypes".
        head_last: whether it is fitted again after the gradient steps.
        adapts: whether the model gets a PEFT adapter.
        merge: whether the adapter is merged into the weights at the end.
        reserved_tokens: positions of the encoder that an adapter fills with virtual tokens.
        reinit_layers: number of top layers that start from random weights.
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
        """Refuse values that suit no encoder.

        Raises:
            UserError: naming the key, its value and what it may be.
        """

    def apply(self, classifier: Classifier) -> None:
        """Freeze, insert adapters or re-initialise: change ``classifier.model`` in place, or replace it."""
        raise NotImplementedError

    def groups(self, classifier: Classifier) -> list[Group]:
        """Return every trainable parameter exactly once; called after `apply`."""
        raise NotImplementedError

    def frozen_depth(self, classifier: Classifier) -> int:
        """Return how deep the model is frozen.

        0: not at all; k: the embeddings and k layers; ``ALL_FROZEN``: all but the output layer. The frozen part runs
        without dropout, and its output may be cached.
        """
        return 0


ALL_FROZEN = 10**6


def freeze(classifier: Classifier, names: set[str]) -> None:
    """Freeze the named parameters."""
    for name, parameter in classifier.model.named_parameters():
        if name in names:
            parameter.requires_grad_(False)


def check_rates(**rates: float | None) -> None:
    """Refuse negative learning rates, given by the key of the strategy."""
    for key, rate in rates.items():
        if rate is not None and not rate >= 0:
            raise UserError(f"strategy.{key}={rate} must be at least 0")


def encoder_width(classifier: Classifier) -> int:
    """Return the hidden size of the encoder, on which good learning rates depend; at least 256, for tiny encoders."""
    from nlp_transfer.encoder.pooled_config import encoder_config

    return max(256, encoder_config(classifier.model.config).hidden_size)


def trainable(classifier: Classifier) -> dict[str, nn.Parameter]:
    """Return the trainable parameters, by qualified name."""
    return {name: p for name, p in classifier.model.named_parameters() if p.requires_grad}
