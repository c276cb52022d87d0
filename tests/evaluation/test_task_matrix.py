"""The figures of tasks in sequence, by hand."""

import math

import numpy as np
import pytest

from nlp_transfer.evaluation.task_matrix import TaskMatrix


def test_the_figures_by_hand():
    found = TaskMatrix(np.array([[0.9, 0.4, 0.3], [0.7, 0.8, 0.5], [0.6, 0.85, 0.7]]), np.array([0.5, 0.5, 0.25]))
    assert found.average == pytest.approx((0.6 + 0.85 + 0.7) / 3)
    assert found.backward_transfer == pytest.approx(((0.6 - 0.9) + (0.85 - 0.8)) / 2)
    assert found.forward_transfer == pytest.approx(((0.4 - 0.5) + (0.5 - 0.25)) / 2)
    assert found.forgetting == pytest.approx(((0.9 - 0.6) + (0.8 - 0.85)) / 2)


def test_forgetting_is_from_the_best_and_not_from_the_first():
    rose = np.array([[0.5, math.nan, math.nan], [0.8, 0.9, math.nan], [0.7, 0.9, 0.9]])
    assert TaskMatrix(rose).forgetting == pytest.approx(((0.8 - 0.7) + 0) / 2)
    assert TaskMatrix(rose).backward_transfer == pytest.approx(((0.7 - 0.5) + 0) / 2)
    assert math.isnan(TaskMatrix(rose).forward_transfer)


def test_one_task_has_no_transfer():
    found = TaskMatrix(np.array([[0.9]]), np.array([0.5]))
    assert found.average == 0.9
    assert all(map(math.isnan, (found.backward_transfer, found.forward_transfer, found.forgetting)))


@pytest.mark.parametrize(("shape", "before"), [((2, 3), None), ((0, 0), None), ((3,), None), ((2, 2), (3,))])
def test_invalid_task_matrices_are_refused(shape: tuple[int, ...], before: tuple[int, ...] | None):
    with pytest.raises(ValueError, match="task"):
        TaskMatrix(np.zeros(shape), None if before is None else np.zeros(before))
