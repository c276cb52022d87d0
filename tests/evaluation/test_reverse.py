"""Answers lead back to the labels they follow, and to no others."""

import numpy as np
import pytest

from nlp_transfer.data.task import Task
from nlp_transfer.evaluation.reverse_validation import DomainFeatures, difference, reverse_accuracy

TASKS = {
    "single_label": Task("single_label", ("a", "b", "c"), False, None),
    "ordinal": Task("ordinal", ("a", "b", "c"), False, None),
    "soft": Task("single_label", ("a", "b", "c"), False, None),
    "multi_label": Task("multi_label", ("a", "b", "c"), False, (0.5, 0.5, 0.5)),
}


def two_domains(problem: str) -> tuple[DomainFeatures, np.ndarray]:
    """Rows of three classes that lie apart in both domains, as an encoder sees them; and the classes of the texts."""
    random = np.random.default_rng(0)
    source, target = random.integers(3, size=120), random.integers(3, size=150)
    centres = np.eye(3, 5) * 4
    features = [centres[each] + 0.3 * random.normal(size=(len(each), 5)) for each in (source, target)]
    targets = source if problem in ("single_label", "ordinal") else np.eye(3, dtype=np.float32)[source]
    return DomainFeatures(features[0].astype(np.float32), targets, features[1].astype(np.float32)), target


def logits_of(answers: np.ndarray) -> np.ndarray:
    """Sure answers."""
    return 9 * np.eye(3, dtype=np.float32)[answers] - 4


@pytest.mark.parametrize("problem", TASKS)
def test_reverse_accuracy_is_high_for_right_and_low_for_flipped_predictions(problem: str):
    task, (known, target) = TASKS[problem], two_domains(problem)
    assert reverse_accuracy(task, logits_of(target), known, seed=0).mean() == 1
    turned = reverse_accuracy(task, logits_of((target + 1) % 3), known, seed=0)
    assert turned.mean() == pytest.approx(1 / 3 if problem == "multi_label" else 0)  # one label of three is in neither


@pytest.mark.parametrize("problem", TASKS)
def test_constant_predictions_lead_to_one_label(problem: str):
    task, (known, target) = TASKS[problem], two_domains(problem)
    found = reverse_accuracy(task, logits_of(0 * target), known, seed=0)
    labels = known.targets.argmax(1) if known.targets.ndim == 2 else known.targets
    np.testing.assert_allclose(found, np.where(labels == 0, 1, 1 / 3 if problem == "multi_label" else 0))


def test_a_difference_is_that_of_pairs():
    random = np.random.default_rng(1)
    one = (random.random(400) < 0.7).astype(float)
    other = np.where(random.random(400) < 0.2, 0, one)
    same = difference(one, one, confidence=0.95, seed=0)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    less = difference(other, one, confidence=0.95, seed=0)
    assert less.low < less.value < less.high < 0
    assert less.value == pytest.approx(other.mean() - one.mean())
