"""The metrics as `evaluate.Metric` modules, for `evaluate.combine` and other training loops; needs no network.

Import this file only when needed: `evaluate` takes seconds to import. The package itself uses ``metrics``; the modules
give the same numbers behind another interface.

    from nlp_transfer.evaluation.modules import Accuracy, MacroF1
    evaluate.combine([Accuracy(task), MacroF1(task)]).compute(predictions=logits, references=targets)

Predictions are logits, not classes: log_loss needs them, and only ``decisions.decide`` turns logits into classes.
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

from nlp_transfer.data.task import Task
from nlp_transfer.evaluation.metrics import compute, selection_metric

# `combine` needs one schema for all modules; evaluate takes the first that fits. Class numbers are passed as floats,
# because an integer column would silently truncate regression targets.
_NESTED, _FLAT = datasets.Sequence(datasets.Value("float64")), datasets.Value("float64")
_FEATURES = [
    datasets.Features({"predictions": predictions, "references": references})
    for predictions in (_NESTED, _FLAT)
    for references in (_NESTED, _FLAT)
]


class _Module(evaluate.Metric):
    metric: str

    def __init__(self, task: Task, **options: Any) -> None:
        """Make the module for a task.

        Args:
            task: the task; the metric must be one of its problem type.
            options: of ``evaluate.Metric``; rows are kept in memory unless these say otherwise.

        Raises:
            UserError: for a metric that the problem type does not have.
        """
        selection_metric(task, self.metric)
        self.task = task
        super().__init__(**({"keep_in_memory": True} | options))

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=f"{self.metric} as nlp_transfer reports it.",
            citation="",
            inputs_description=(
                "predictions: logits; references: targets as Task.encode makes them; sample_weight: optional."
            ),
            features=_FEATURES,
        )

    def _compute(self, *, predictions: Any, references: Any, sample_weight: Any = None) -> dict[str, float]:
        targets = np.asarray(references)
        if targets.ndim == 1 and self.task.labels:
            targets = targets.astype(np.int64)
        values = compute(self.task, np.asarray(predictions), targets, sample_weight)
        return {self.metric: values[self.metric]}


def _module(metric: str, name: str) -> type[_Module]:
    return type(name, (_Module,), {"metric": metric, "__doc__": f"``{metric}`` as an `evaluate.Metric`."})


Accuracy = _module("accuracy", "Accuracy")
MacroF1 = _module("macro_f1", "MacroF1")
WeightedF1 = _module("weighted_f1", "WeightedF1")
MicroF1 = _module("micro_f1", "MicroF1")
SubsetAccuracy = _module("subset_accuracy", "SubsetAccuracy")
LogLoss = _module("log_loss", "LogLoss")
Brier = _module("brier", "Brier")
QuadraticKappa = _module("quadratic_kappa", "QuadraticKappa")
MeanAbsoluteError = _module("mean_absolute_error", "MeanAbsoluteError")
MeanSquaredError = _module("mean_squared_error", "MeanSquaredError")
Pearson = _module("pearson", "Pearson")
Spearman = _module("spearman", "Spearman")
R2 = _module("r2", "R2")
