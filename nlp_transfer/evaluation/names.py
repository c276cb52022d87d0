"""Names, defaults, directions and ranges of the metrics. Without numpy, so that settings are checked quickly."""

from __future__ import annotations

import math
from collections.abc import Mapping

_CLASSES = ("accuracy", "macro_f1", "weighted_f1", "log_loss", "brier")
METRICS: Mapping[str, tuple[str, ...]] = {
    "single_label": _CLASSES,
    "multi_label": ("micro_f1", "macro_f1", "subset_accuracy", "log_loss", "brier"),
    "ordinal": (*_CLASSES, "mean_absolute_error", "quadratic_kappa"),
    "regression": ("mean_squared_error", "mean_absolute_error", "pearson", "spearman", "r2"),
}
"""Problem type → the names of its metrics, in display order."""

DEFAULT_METRIC: Mapping[str, str] = {
    # All are "higher is better", so a sweep over `metric: auto` always maximises.
    # Follows accuracy where classes are balanced; where they are not, accuracy rewards giving up rare classes.
    "single_label": "macro_f1",
    # Macro F1 depends on labels with a handful of positives: it has twice the sampling error (goemotions), and is 0 for
    # a label until it crosses the threshold. Too noisy to select a checkpoint by.
    "multi_label": "micro_f1",
    # The only metric that uses the order of the classes, corrects for chance and has a fixed scale.
    "ordinal": "quadratic_kappa",
    # Ranks models as the squared error does, and is 0 for predicting the mean. A correlation ignores a wrong offset and
    # scale, which matter to users of the predictions, and is undefined for constant predictions.
    "regression": "r2",
}

_LOWER_IS_BETTER = ("log_loss", "brier", "mean_absolute_error", "mean_squared_error")
HIGHER_IS_BETTER: Mapping[str, bool] = {
    name: name not in _LOWER_IS_BETTER for names in METRICS.values() for name in names
}


def sign_of(metric: str) -> int:
    """Return 1 if higher values of a metric are better, else -1."""
    return 1 if HIGHER_IS_BETTER[metric] else -1


def goodness(value: float | None, metric: str) -> float:
    """Return a metric's value with its sign set so that higher is better; undefined values are worst."""
    return -math.inf if value is None or math.isnan(value) else sign_of(metric) * value


_SIGNED = ("quadratic_kappa", "pearson", "spearman")


def range_of(metric: str) -> tuple[float, float]:
    """Return the lowest and the highest possible value of a metric."""
    if not HIGHER_IS_BETTER[metric]:
        return 0.0, math.inf
    return -math.inf if metric == "r2" else -1.0 if metric in _SIGNED else 0.0, 1.0
