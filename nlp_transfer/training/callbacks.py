"""How a training loop evaluates weights, and the callbacks by which it reports progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Metrics = dict[str, float]


@dataclass(frozen=True)
class Validation:
    """How weights are evaluated and compared.

    Attributes:
        evaluate: returns the metrics of the current weights on the validation split; called on every rank.
        metric: the metric by which the best weights are chosen.
        higher_is_better: whether a higher value of it is better.
    """

    evaluate: Callable[[], Metrics]
    metric: str
    higher_is_better: bool


@dataclass(frozen=True)
class Callbacks:
    """Functions that a training loop calls; by default they do nothing.

    Attributes:
        on_step: after every optimizer step, with (steps done, total steps, {"loss", "learning_rate", ...}).
        on_evaluation: after every evaluation, with the metrics and the "step".
        on_pace: before every evaluation, with (step, figures of ``training.pace`` since the evaluation before).
        on_halved: with (step, tokens) when memory ran out and passes hold at most `tokens` from that step on.
        on_stop: as soon as a signal asks to stop; the current step is still finished.
    """

    on_step: Callable[[int, int, Metrics], None] = lambda done, total, values: None
    on_evaluation: Callable[[Metrics], None] = lambda metrics: None
    on_pace: Callable[[int, Metrics], None] = lambda step, figures: None
    on_halved: Callable[[int, int], None] = lambda step, tokens: None
    on_stop: Callable[[], None] = lambda: None
