"""The supervised losses: hand-computed values, torch's own losses, and the limits of their settings."""

import math

import pytest
import torch
from torch.nn import functional as F

from nlp_transfer.data.task import Task
from nlp_transfer.encoder.classifier import Outputs
from nlp_transfer.errors import UserError
from nlp_transfer.objectives.classify import Classify
from nlp_transfer.objectives.settings import ClassifySettings

LABELS = ("a", "b", "c")


def loss(problem: str, logits, targets, *, labels=LABELS, weights=None, **knobs) -> torch.Tensor:
    term = Classify(ClassifySettings(**knobs), Task(problem, labels, False, weights))
    logits = torch.as_tensor(logits, dtype=torch.float32)
    return term(Outputs(logits, logits), {"targets": torch.as_tensor(targets)}, 0.0)


def test_single_label_by_hand_and_by_torch():
    value = loss("single_label", [[math.log(2), 0.0, 0.0]], [0])
    assert value.tolist() == pytest.approx([math.log(2)])  # softmax = (1/2, 1/4, 1/4)
    logits, targets = torch.randn(7, 3), torch.randint(0, 3, (7,))
    for smoothing in (0.0, 0.1):
        ours = loss("single_label", logits, targets, label_smoothing=smoothing)
        torch.testing.assert_close(ours, F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing))


def test_soft_labels_mix_the_hard_losses():
    logits = torch.randn(1, 3)
    soft = loss("single_label", logits, [[0.25, 0.75, 0.0]])
    hard = [loss("single_label", logits, [label])[0] for label in (0, 1)]
    torch.testing.assert_close(soft[0], 0.25 * hard[0] + 0.75 * hard[1])


def test_multi_label_by_hand():
    value = loss("multi_label", [[0.0, 0.0, 0.0]], [[1.0, 0.0, 0.0]])
    assert value.tolist() == pytest.approx([math.log(2)])
    weighted = loss("multi_label", [[0.0, 0.0, 0.0]], [[1.0, 0.0, 0.0]], weights=(4.0, 1.0, 1.0))
    assert weighted.tolist() == pytest.approx([2 * math.log(2)])  # (4 + 1 + 1) / 3


def test_regression_is_the_squared_error():
    assert loss("regression", [[2.5]], torch.tensor([1.0]), labels=()).tolist() == pytest.approx([2.25])


def test_ordinal_prefers_near_misses():
    def of(prediction: int) -> float:
        logits = torch.full((1, 5), -4.0)
        logits[0, prediction] = 4.0
        return float(loss("ordinal", logits, [1], labels=tuple("12345")))

    assert of(1) < of(2) < of(3) < of(4)
    assert of(0) == pytest.approx(of(2), abs=0.2)


def test_ordinal_targets_by_hand():
    term = Classify(ClassifySettings(ordinal_sharpness=2.0), Task("ordinal", LABELS, False))
    p = term.distribution(torch.tensor([0]), 3)[0]
    raw = [1.0, math.exp(-2), math.exp(-4)]
    assert p.tolist() == pytest.approx([value / sum(raw) for value in raw])


@pytest.mark.parametrize(
    "knobs", [{"label_smoothing": 1.0}, {"label_smoothing": -0.1}, {"ordinal_sharpness": 0.0}, {"weight": -1.0}]
)
def test_impossible_settings_are_refused(knobs):
    with pytest.raises(UserError, match=next(iter(knobs))):
        ClassifySettings(**knobs).check()


@pytest.mark.parametrize("problem", ["regression", "ordinal"])
def test_smoothing_is_refused_where_it_has_no_meaning(problem):
    with pytest.raises(UserError, match="no meaning"):
        Classify(ClassifySettings(label_smoothing=0.1), Task(problem, LABELS, False))
