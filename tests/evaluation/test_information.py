"""What answers without labels tell: nothing, all, and hand-computed values between."""

import math

import numpy as np
import pytest

from nlp_transfer.data.task import Task
from nlp_transfer.evaluation.information import gain, mutual_information

TWO, THREE = (Task("single_label", tuple("abc"[:labels]), False, None) for labels in (2, 3))
MANY = Task("multi_label", ("a", "b"), False, None)


@pytest.mark.parametrize(("task", "of_all"), [(TWO, 1.0), (THREE, 1.0)])
def test_information_is_one_for_certain_and_zero_for_equal_predictions(task: Task, of_all: float):
    sure = np.eye(len(task.labels), dtype=np.float32).repeat(10, 0) * 100
    assert mutual_information(task, sure) == pytest.approx(of_all)
    assert mutual_information(task, sure[:10]) == pytest.approx(0, abs=1e-9)
    assert mutual_information(task, 0 * sure) == pytest.approx(0, abs=1e-9)


def test_the_values_by_hand():
    # Answers (3/4, 1/4) and (1/4, 3/4): H of their mean is log 2, the mean of their H is h.
    answers = np.array([[math.log(3), 0.0], [0.0, math.log(3)]])
    h = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert mutual_information(TWO, answers) == pytest.approx(1 - h / math.log(2))
    # Either label by itself: the first as above, of the second all answers are the same.
    several = np.array([[math.log(3), 5.0], [-math.log(3), 5.0]])
    assert mutual_information(MANY, several) == pytest.approx((1 - h / math.log(2)) / 2)


def test_a_difference_has_the_interval_of_pairs():
    random = np.random.default_rng(0)
    own = random.normal(size=(400, 3))
    same = gain(THREE, own, own, confidence=0.95, seed=0)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    more = gain(THREE, 2 * own, own, confidence=0.95, seed=0)
    assert 0 < more.low < more.value < more.high
    assert more.value == mutual_information(THREE, 2 * own) - mutual_information(THREE, own)
