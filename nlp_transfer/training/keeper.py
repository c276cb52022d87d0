"""Which weights of a training are kept: the best that were measured, or the last."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from nlp_transfer.training.optimizer import load_parameters


class Keeper:
    """Remembers the best weights seen, and how long ago that was.

    Args:
        metric: the key of the metrics that decides.
        higher_is_better: how to read it.
        keep_best: the best weights are kept, of equally good ones the later, which have learned from more rows: few
            validation rows are soon all right. Else the last.
        patience: evaluations without improvement after which it is exhausted; None: never.
    """

    def __init__(self, metric: str, *, higher_is_better: bool, keep_best: bool, patience: int | None) -> None:
        self.metric, self.higher_is_better = metric, higher_is_better
        self.keep_best, self.patience = keep_best, patience
        self.best: float | None = None
        self.step = 0
        self.weights: dict[str, Tensor] = {}
        self.waited = 0

    @property
    def exhausted(self) -> bool:
        """Whether nothing has improved for as long as anybody wants to wait."""
        return self.patience is not None and self.waited >= self.patience

    def see(self, metrics: Mapping[str, float], parameters: dict[str, nn.Parameter], *, last: bool) -> None:
        """Look at an evaluation of the parameters; `last`: none will follow."""
        value = metrics[self.metric]
        sign = 1 if self.higher_is_better else -1
        defined = not math.isnan(value)
        improved = defined and (self.best is None or sign * value > sign * self.best)
        equal = defined and value == self.best
        self.waited = 0 if improved else self.waited + 1
        if improved:
            self.best = value
        stopping = last or self.exhausted
        nothing_measured = self.best is None and stopping  # a metric that is never defined cannot choose
        if nothing_measured or (improved or equal if self.keep_best else stopping):
            self.step = int(metrics["step"])
            self.weights = {name: p.detach().clone() for name, p in parameters.items()}

    def restore(self, parameters: dict[str, nn.Parameter]) -> None:
        """Put the kept weights into the parameters."""
        if self.weights:
            load_parameters(parameters, self.weights)

    def state(self) -> dict[str, Any]:
        """Return what it remembers beside the weights."""
        return {"best": self.best, "step": self.step, "waited": self.waited}

    def load(self, state: Mapping[str, Any], weights: dict[str, Tensor]) -> None:
        """Remember what another keeper did."""
        self.best, self.step, self.waited, self.weights = state["best"], state["step"], state["waited"], weights
