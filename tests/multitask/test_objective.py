"""The loss of several tasks, by hand."""

import math

import pytest
import torch

from nlp_transfer.data.task import Task
from nlp_transfer.encoder.classifier import Outputs
from nlp_transfer.multitask.objective import MultitaskLoss
from nlp_transfer.objectives.settings import ClassifySettings

TASKS = [
    Task("single_label", ("a", "b"), False),
    Task("multi_label", ("c", "d"), False),
    Task("regression", (), False),
]
SLICES = [slice(0, 2), slice(2, 4), slice(4, 5)]
LOGITS = torch.tensor([[0.0, math.log(3), 9, 9, 9], [9, 9, 0.0, math.log(3), 9], [9, 9, 9, 9, 2.5]])
TARGETS = torch.tensor([[0.0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 4]])
# -log 3/4; the mean of -log 1/2 and -log 1/4; 1.5²
LOSSES = [math.log(4 / 3), (math.log(2) + math.log(4)) / 2, 2.25]


def losses(together: MultitaskLoss) -> torch.Tensor:
    batch = {"targets": TARGETS, "task": torch.tensor([0, 1, 2])}
    return together(Outputs(LOGITS, torch.zeros(3, 1)), batch, 0.0)


def test_a_row_has_the_loss_of_its_own_task_alone():
    together = MultitaskLoss(ClassifySettings(), TASKS, SLICES, balance="none")
    assert losses(together).tolist() == pytest.approx(LOSSES)
    assert together.groups == []
    logits = LOGITS.clone().requires_grad_()
    batch = {"targets": TARGETS, "task": torch.tensor([0, 1, 2])}
    together(Outputs(logits, torch.zeros(3, 1)), batch, 0.0).sum().backward()
    own = torch.zeros(3, 5, dtype=torch.bool)
    for row, each in enumerate(SLICES):
        own[row, each] = True
    assert not logits.grad[~own].any()
    assert logits.grad[own].all()


def test_uncertainty_weighs_losses_as_the_paper_says():
    together = MultitaskLoss(ClassifySettings(), TASKS, SLICES, balance="uncertainty")
    assert losses(together).tolist() == pytest.approx([LOSSES[0], LOSSES[1], LOSSES[2] / 2])
    with torch.no_grad():
        together.log_variances.copy_(torch.tensor([math.log(2), math.log(0.5), math.log(4)]))
    reference = [
        LOSSES[0] / 2 + math.log(2) / 2,
        LOSSES[1] * 2 - math.log(2) / 2,
        LOSSES[2] / 8 + math.log(4) / 2,
    ]
    assert losses(together).tolist() == pytest.approx(reference)
    (group,) = together.groups
    assert list(group.parameters) == ["log_variances"]


def test_it_settles_where_the_variance_is_twice_the_loss():
    together = MultitaskLoss(ClassifySettings(), TASKS, SLICES, balance="uncertainty")
    optimizer = torch.optim.LBFGS(together.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = losses(together).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = [math.log(2 * LOSSES[0]), math.log(2 * LOSSES[1]), math.log(LOSSES[2])]
    assert together.log_variances.tolist() == pytest.approx(expected, abs=1e-3)
