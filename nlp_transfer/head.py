"""The head fitted first: frozen features of the training rows in, the optimal output layer written into the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nlp_transfer.data.task import Task
from nlp_transfer.encoder.anatomy import output_layers
from nlp_transfer.errors import UserError
from nlp_transfer.objectives.classify import Classify
from nlp_transfer.preparation import Prepared
from nlp_transfer.strategies.convex import Head, fit_head

LOSSES = {"single_label": "softmax", "ordinal": "softmax", "multi_label": "sigmoid", "regression": "squared"}


def solve_head(prepared: Prepared) -> Head:
    """Fit the output layer to the training rows and put it into the model.

    Raises:
        UserError: if the objective has no supervised term to fit it to.
    """
    output: Any = next(reversed(output_layers(prepared.classifier.model).values()))  # the last one is the active one
    head = fit_to(prepared, prepared.features("train"), intercept=output.bias is not None)
    with torch.no_grad():
        output.weight.copy_(torch.from_numpy(head.weight))
        if output.bias is not None:
            output.bias.copy_(torch.from_numpy(head.bias))
    return head


def fit_to(prepared: Prepared, features: np.ndarray, *, intercept: bool = True) -> Head:
    """Return the optimal linear layer from features (examples, width) to the training targets."""
    term = dict(prepared.objective.terms.items()).get("classify")
    if not isinstance(term, Classify):
        raise UserError("the head can only be fitted to the objective `classify`; set strategy.head_first=false")
    train, task = prepared.corpus.splits["train"], prepared.corpus.task
    return fit_head(
        features,
        _distributions(task, term, train.targets),
        train.weights,
        loss=LOSSES[task.problem],
        positive_weights=None if term.positive_weights is None else term.positive_weights.cpu().numpy(),
        intercept=intercept,
        strata=_strata(task, train.targets),
        seed=prepared.settings.seed,
    )


def _distributions(task: Task, term: Classify, targets: np.ndarray) -> np.ndarray:
    if task.problem == "regression":
        return targets[:, None]
    if task.problem == "multi_label":
        return targets * (1 - term.smoothing) + term.smoothing / 2
    return term.distribution(torch.from_numpy(targets), task.outputs).numpy()


def _strata(task: Task, targets: np.ndarray) -> np.ndarray | None:
    if task.problem in ("regression", "multi_label"):
        return None
    return targets if targets.ndim == 1 else targets.argmax(1)
