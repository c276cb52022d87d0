"""Sets hold the truth as often as they are to, whatever the model is worth; limits are order statistics."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from nlp_transfer.data.task import Task
from nlp_transfer.evaluation.calibration_scores import CalibrationScores, min_rows
from nlp_transfer.evaluation.conformal import covered, label_sets, nonconformity, number_bounds

TASK = Task("single_label", ("a", "b", "c", "d"), pair=False)
ORDINAL = Task("ordinal", ("1", "2", "3", "4"), pair=False)
NUMBER = Task("regression", (), pair=False)


@pytest.mark.parametrize("score", [1 / 3, 2 / 3, -1 / 3, 1e-9 / 7, 12345.6789012, -0.1, 0.0])
def test_kept_scores_bound_all_scores(score: float):
    limit = CalibrationScores.of(np.full(100, score)).limit(0.9)
    assert score <= limit == pytest.approx(score, rel=1e-6)


def test_limits_by_hand():
    kept = CalibrationScores.of(np.arange(1, 10)[::-1])  # 1 to 9, of which the (9 + 1) * 0.9 = 9th is the limit
    assert kept.limit(0.9) == 9
    assert kept.limit(0.5) == 5
    assert kept.limit(0.51) == 6
    assert kept.limit(0.91) == math.inf
    assert [min_rows(level) for level in (0.5, 0.9, 0.95, 0.99)] == [1, 9, 19, 99]
    for level in (0.8, 0.9, 0.95, 0.99):
        rows = min_rows(level)
        assert CalibrationScores.of(np.zeros(rows)).limit(level) == 0
        assert CalibrationScores.of(np.zeros(rows - 1)).limit(level) == math.inf


@pytest.mark.parametrize("rows", [1001, 1002, 5_000, 12_345])
def test_a_thousand_kept_scores_have_the_coverage(rows: int):
    scores = np.arange(1, rows + 1)
    kept = CalibrationScores.of(scores)
    assert len(kept.values) == 1001
    assert (kept.values[0], kept.values[-1]) == (1, rows)
    for level in (0.001, 0.5, 0.9, 0.95, 0.999):
        exact = math.ceil((rows + 1) * level - 1e-9)
        assert exact <= kept.limit(level) <= exact + rows / 1000
    assert CalibrationScores.from_json(kept.to_json()) == kept


@pytest.mark.parametrize(
    "broken",
    [{"rows": 3, "values": [1, 2]}, {"rows": 2, "values": [2, 1]}, {"rows": 1, "values": ["1"]}, {"rows": True}, {}],
)
def test_limits_without_kept_scores_are_refused(broken: dict):
    with pytest.raises((KeyError, TypeError, ValueError)):
        CalibrationScores.from_json(broken | ({"values": [1.0]} if broken.get("rows") is True else {}))


def drawn(chooser: np.random.Generator, rows: int, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a poor model, and the truth."""
    if task.problem == "regression":
        targets = chooser.standard_t(3, size=rows)
        return (0.5 * targets + chooser.normal(size=rows))[:, None], targets
    truth = chooser.integers(4, size=rows)
    return 2 * np.eye(4)[truth] + 2 * chooser.normal(size=(rows, 4)), truth


@pytest.mark.parametrize("task", [TASK, ORDINAL, NUMBER], ids=lambda task: task.problem)
@pytest.mark.parametrize("level", [0.8, 0.9])
def test_sets_have_their_coverage(task: Task, level: float):
    chooser, hits, trials = np.random.default_rng(0), 0, 1000
    for _ in range(trials):
        logits, truth = drawn(chooser, 60, task)
        limit = CalibrationScores.of(nonconformity(task, logits[:-1], truth[:-1])).limit(level)
        if task.problem == "regression":
            low, high = number_bounds(task, logits[-1:], limit)[0]
            hits += int(low <= truth[-1] <= high)
        else:
            hits += int(covered(label_sets(task, logits[-1:], limit), truth[-1:])[0])
    assert hits >= binom.ppf(0.001, trials, level)
    if task is not ORDINAL:  # filled sets hold more
        assert hits <= binom.ppf(0.999, trials, level + 1 / 60) + trials * 0.02  # and sets that would be empty


def test_a_set_is_never_empty_and_an_ordinal_one_has_no_gap():
    logits = np.log([[0.4, 0.1, 0.4, 0.1], [0.3, 0.3, 0.2, 0.2]])
    assert label_sets(TASK, logits, 0.65).tolist() == [[True, False, True, False], [True, False, False, False]]
    assert label_sets(ORDINAL, logits, 0.65).tolist() == [[True, True, True, False], [True, False, False, False]]
    assert label_sets(TASK, logits, math.inf).all()


def test_soft_labels_count_as_their_most_probable_label():
    logits = np.log([[0.7, 0.1, 0.1, 0.1]])
    hard, soft = np.array([1]), np.array([[0.2, 0.8, 0, 0]])
    for targets in (hard, soft):
        assert nonconformity(TASK, logits, targets) == pytest.approx([0.9])
