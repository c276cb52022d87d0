"""The numbers behind the figures, on cases that were computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, precision_recall_curve

from nlp_transfer.data.near import near_any
from nlp_transfer.data.task import Task
from nlp_transfer.evaluation.calibration import calibration_error, reliability
from nlp_transfer.evaluation.intervals import Bootstrap
from nlp_transfer.evaluation.metrics import per_label
from nlp_transfer.reporting import measures
from nlp_transfer.reporting.rows import unseen, worst
from tests.evaluation.conftest import make_case
from tests.reporting.tasks import evidence

TASK = Task("single_label", ("a", "b", "c"), pair=False)
ONES = np.ones(4)


def sure(*likely: float) -> np.ndarray:
    """Logits of two labels, of which the first has these probabilities."""
    share = np.array(likely)
    return np.log(np.stack([share, 1 - share], axis=1))


def test_confusions_count_by_weight_and_share():
    logits = np.eye(3)[[0, 1, 1, 2]]
    counts = measures.confusions(TASK, logits, np.array([0, 0, 1, 2]), np.array([1, 2, 1, 0.5]))
    np.testing.assert_array_equal(counts, [[1, 2, 0], [0, 1, 0], [0, 0, 0.5]])
    soft = np.array([[0.5, 0.5, 0]] * 4)
    np.testing.assert_array_equal(measures.confusions(TASK, logits, soft, ONES)[:2], [[0.5, 1, 0.5]] * 2)


def test_the_largest_confusions_come_first_without_the_diagonal():
    counts = np.array([[5.0, 1, 0], [3, 1, 0], [0, 0, 9]])
    assert measures.largest_confusions(counts, 5) == [(1, 0, 3, 0.75), (0, 1, 1, pytest.approx(1 / 6))]
    assert measures.largest_confusions(counts, 1) == [(1, 0, 3, 0.75)]
    assert measures.largest_confusions(np.diag([1.0, 0.0]), 5) == []


def test_confused_labels_are_placed_side_by_side():
    counts = np.diag(np.full(6, 9.0))
    for one, other in ((0, 4), (1, 5), (2, 3)):
        counts[one, other] = counts[other, one] = 4
    order = list(measures.neighbours(counts))
    assert sorted(order) == list(range(6))
    assert all(abs(order.index(one) - order.index(other)) == 1 for one, other in ((0, 4), (1, 5), (2, 3)))
    assert list(measures.neighbours(np.zeros((2, 2)))) == [0, 1]


def test_risk_coverage_agrees_with_a_hand_computed_example():
    task = Task("single_label", ("a", "b"), pair=False)
    curve = measures.risk_coverage(task, sure(0.9, 0.8, 0.7), np.array([0, 1, 0]), np.ones(3))
    np.testing.assert_allclose(curve.x, [1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(curve.y, [0, 1 / 2, 1 / 3])
    assert curve.area == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)
    tied = measures.risk_coverage(task, sure(0.8, 0.8), np.array([0, 1]), np.ones(2))
    assert (list(tied.x), list(tied.y), tied.area) == ([1.0], [0.5], 0.5)
    weighted = measures.risk_coverage(task, sure(0.9, 0.8, 0.7), np.array([0, 1, 0]), np.array([1, 0, 1]))
    np.testing.assert_array_equal(weighted.y, [0, 0])


def test_answered_shares_agree_with_a_hand_computed_example():
    task = Task("single_label", ("a", "b"), pair=False)
    logits, targets = sure(0.95, 0.9, 0.8, 0.7), np.array([0, 1, 0, 1])
    found = measures.abstention_effects(task, logits, targets, np.ones(4), [0.5, 0.75, 0.99], confidence=0.95)
    assert [(each.above, each.share) for each in found] == [(0.5, 1.0), (0.75, 0.75)]  # nothing is as sure as the last
    for each, (wrong, rows) in zip(found, [(2, 4), (1, 3)], strict=True):
        ends = binomtest(wrong, rows).proportion_ci(0.95, method="wilson")
        assert (each.error.value, each.error.low, each.error.high) == pytest.approx((wrong / rows, ends.low, ends.high))
    twice = measures.abstention_effects(task, logits, targets, np.full(4, 2.0), [0.5, 0.75, 0.99], confidence=0.95)
    assert twice == found  # weights are no rows
    (one,) = measures.abstention_effects(task, logits, targets, np.array([0, 3, 1, 0]), [0.5], confidence=0.95)
    assert (one.share, one.error.value) == (1.0, 0.75)
    soft = np.array([[0.5, 0.5]] * 4)
    (half,) = measures.abstention_effects(task, logits, soft, np.ones(4), [0.5], confidence=0.95)
    assert half.error.value == 0.5


@pytest.mark.parametrize("weighted", [True, False])
def test_precision_and_recall_are_those_of_scikit_learn(weighted: bool):
    rng = np.random.default_rng(0)
    stated, true = rng.random(200).round(1), (rng.random(200) < 0.4).astype(float)
    weights = rng.integers(1, 4, 200).astype(float) if weighted else np.ones(200)
    curve = measures.precision_recall(stated, true, weights)
    assert curve.area == pytest.approx(average_precision_score(true, stated, sample_weight=weights))
    precision, recall, _ = precision_recall_curve(true, stated, sample_weight=weights)
    np.testing.assert_allclose(curve.x[1:], recall[:-1][::-1])
    np.testing.assert_allclose(curve.y[1:], precision[:-1][::-1])


def test_the_interval_of_an_area_contains_it_and_narrows_with_rows():
    rng = np.random.default_rng(0)
    widths = []
    for rows in (100, 1600):
        true = (rng.random(rows) < 0.4).astype(float)
        stated, weights = true + rng.normal(size=rows), np.ones(rows)

        def curve_of(weights, stated=stated, true=true):
            return measures.precision_recall(stated, true, weights)

        found = measures.area(curve_of, weights, Bootstrap(200, seed=0))
        assert found.value == curve_of(weights).area
        assert found.low < found.value < found.high
        widths.append(found.high - found.low)
        nothing = measures.area(curve_of, weights, Bootstrap(0, seed=0))
        assert nothing.value == found.value
        assert np.isnan(nothing.low)
    assert widths[1] < widths[0] / 2
    alone = np.array([1.0, *np.zeros(29)])  # most resamples have no weight, and others nothing that is true
    found = measures.area(
        lambda weights: measures.precision_recall(np.arange(30.0), alone, weights),
        np.array([1.0, 1.0, *np.zeros(28)]),
        Bootstrap(100, seed=0, confidence=0.9),
    )
    assert 0 < found.low <= found.value <= found.high <= 1


def test_bins_reproduce_the_calibration_error(case):
    weights = np.ones(len(case.logits)) if case.weights is None else case.weights
    if case.task.problem == "regression":
        return
    bins = reliability(case.task, case.logits, case.targets, weights)
    assert bins.rows.sum() == len(case.logits) * (len(case.task.labels) if case.task.problem == "multi_label" else 1)
    there = bins.rows > 0
    assert (bins.stated[there] >= bins.edges[:-1][there] - 1e-9).all()
    assert (bins.stated[there] <= bins.edges[1:][there] + 1e-9).all()
    if case.weights is None:
        error = np.abs(bins.stated - bins.true)[there] @ bins.rows[there] / bins.rows.sum()
        assert error == pytest.approx(calibration_error(case.task, case.logits, case.targets, weights))


def test_label_intervals_contain_the_scores(case):
    if case.task.problem == "regression":
        return
    found = measures.label_intervals(*case.arguments, Bootstrap(50, seed=0))
    for score, each in zip(per_label(*case.arguments), found, strict=True):
        for name in ("precision", "recall", "f1"):
            assert each[name].value == pytest.approx(getattr(score, name), nan_ok=True)
            assert np.isnan(each[name].low) or each[name].low <= each[name].value <= each[name].high


def test_length_groups_partition_the_rows():
    lengths = np.arange(100)
    groups = measures.length_groups(lengths)
    assert len(groups) == 5
    assert sorted(np.concatenate([rows for _, rows in groups])) == list(range(100))
    assert all(15 <= len(rows) <= 25 for _, rows in groups)
    assert groups[0][0].startswith("0–")
    assert measures.length_groups(np.full(100, 7)) == []
    assert measures.length_groups(lengths[:30]) == []


def test_the_most_confident_mistakes_come_first():
    task = Task("single_label", ("a", "b"), pair=False)
    found = worst(task, sure(0.6, 0.9, 0.99, 0.2), np.array([1, 1, 0, 1]), ONES, most=5)
    assert [(each.row, each.true, each.given) for each in found] == [(1, "b", "a"), (0, "b", "a")]
    assert found[0].sure == pytest.approx(0.9)
    several = Task("multi_label", ("a", "b"), pair=False)
    logits = np.array([[2.0, -3.0], [1.0, -1.0], [-4.0, 2.0]])
    found = worst(several, logits, np.array([[1, 0], [0, 0], [1, 1]], np.float32), np.ones(3), most=5)
    assert [(each.row, each.true, each.given, each.about) for each in found] == [
        (2, "a, b", "b", "a"),
        (1, "none", "a", "a"),
    ]
    number = Task("regression", (), pair=False)
    found = worst(number, np.array([[1.0], [5.0], [2.0]]), np.array([1.0, 2.0, 4.0]), np.ones(3), most=2)
    assert [(each.row, each.sure) for each in found] == [(1, 3.0), (2, 2.0)]


def test_rows_of_the_training_split_are_left_out():
    output = evidence(rows=40)
    long = "the parcel that was sent to me last week has not arrived at all"
    output.examples.texts[:3] = ["Another  TEXT", long + "!", "something else"]
    assert output.train is not None
    output.train.texts[:2] = ["another text", long.replace("week", "weeks")]
    left = unseen(output.train, output.examples)
    assert (left.exact, left.near) == (1, 1)
    assert list(left.rows) == list(range(2, 40))


def test_near_texts_share_enough_ngrams():
    texts = [f"the parcel number {chr(97 + at)} that was sent last week is not here" for at in range(8)]
    asked = [texts[3].replace("here", "there"), "no such text at all", "", texts[0].upper()]
    assert near_any(texts, asked) == [True, False, False, True]
    assert near_any([], asked) == [False] * 4


@pytest.fixture(params=["single_label", "multi_label", "ordinal", "regression"])
def case(request):
    return make_case(request.param, weighted=request.param == "ordinal")
