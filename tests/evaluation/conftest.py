from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest

from nlp_transfer.data.task import Task

PROBLEMS = ("single_label", "multi_label", "ordinal", "regression")
CELLS = [
    (problem, soft, weighted)
    for problem, soft, weighted in product(PROBLEMS, (False, True), (False, True))
    if not (problem == "regression" and soft)
]


@dataclass
class Case:
    task: Task
    logits: np.ndarray
    targets: np.ndarray
    weights: np.ndarray | None

    @property
    def arguments(self):
        return self.task, self.logits, self.targets, self.weights


def make_case(problem, *, soft=False, weighted=False, rows=120, labels=4, seed=0):
    """Predictions that are better than chance, for any problem type."""
    rng = np.random.default_rng(seed)
    names = () if problem == "regression" else tuple(f"label {index}" for index in range(labels))
    weights = rng.integers(1, 4, rows).astype(np.float32) / 2 if weighted else None
    if problem == "regression":
        targets = rng.normal(size=rows).astype(np.float32).round(1)
        logits = (targets + rng.normal(size=rows))[:, None]
    elif problem == "multi_label":
        targets = (rng.random((rows, labels)) < 0.3).astype(np.float32)
        logits = 3 * targets - 1.5 + rng.normal(size=targets.shape)
        if soft:
            targets = np.abs(targets - rng.integers(0, 9, targets.shape) / 16).astype(np.float32)
    else:
        targets = rng.integers(labels, size=rows)
        logits = rng.normal(size=(rows, labels))
        logits[np.arange(rows), targets] += 1.5
        if soft:
            targets = (np.eye(labels)[targets] / 2 + np.eye(labels)[rng.integers(labels, size=rows)] / 2).astype(
                np.float32
            )
    return Case(Task(problem, names, pair=False), logits.astype(np.float32), targets, weights)


@pytest.fixture(params=CELLS, ids=lambda cell: "-".join([cell[0], "soft"[: 4 * cell[1]], "weighted"[: 8 * cell[2]]]))
def case(request):
    problem, soft, weighted = request.param
    return make_case(problem, soft=soft, weighted=weighted)
