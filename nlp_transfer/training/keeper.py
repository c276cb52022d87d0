"""Which weights of a training are kept: those with the best validation metric, or the last."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from nlp_transfer.training.optimizer import load_parameters


class Keeper:
    """Keeps a copy of the chosen weights, and counts evaluations without improvement for early stopping.

    Args:
        higher_is_better: whether a higher value of the metric is better.
        keep_best: keep the best weights rather than the last. Of equally good ones the later are kept, for they have
            seen more examples: on few validation rows the metric is soon perfect.
        patience: evaluations without improvement after which training stops; None: never.
    """

    def __init__(self, *, higher_is_better: bool, keep_best: bool, patience: int | None) -> None:
        self.higher_is_better = higher_is_better
        self.keep_best, self.patience = keep_best, patience
        self.best: float | None = None
        self.step = 0
        self.weights: dict[str, Tensor] = {}
        self.waited = 0

    @property
    def out_of_patience(self) -> bool:
        """Whether the metric has not improved for `patience` evaluations."""
        return self.patience is not None and self.waited >= self.patience

    def consider(self, value: float, step: int, parameters: dict[str, nn.Parameter], *, is_last: bool) -> None:
        """Keep the weights of an evaluation if they are to be kept.

        Args:
            value: of the metric; NaN: undefined, or nothing was evaluated.
            step: optimizer steps done.
            parameters: that were evaluated.
            is_last: whether no evaluation will follow.
        """
        sign = 1 if self.higher_is_better else -1
        is_defined = not math.isnan(value)
        is_better = is_defined and (self.best is None or sign * value > sign * self.best)
        is_equal = is_defined and value == self.best
        self.waited = 0 if is_better else self.waited + 1
        if is_better:
            self.best = value
        is_stopping = is_last or self.out_of_patience
        should_keep = is_better or is_equal if self.keep_best else is_stopping
        never_defined = self.best is None and is_stopping  # then the metric cannot choose, and the last are kept
        if should_keep or never_defined:
            self.step = step
            self.weights = {name: p.detach().clone() for name, p in parameters.items()}

    def restore(self, parameters: dict[str, nn.Parameter]) -> None:
        """Copy the kept weights into the parameters."""
        if self.weights:
            load_parameters(parameters, self.weights)

    def state(self) -> dict[str, Any]:
        """Return everything but the weights, as plain values for a checkpoint."""
        return {"best": self.best, "step": self.step, "waited": self.waited}

    def load(self, state: Mapping[str, Any], weights: dict[str, Tensor]) -> None:
        """Restore what `state` returned, and the weights."""
        self.best, self.step, self.waited, self.weights = state["best"], state["step"], state["waited"], weights
