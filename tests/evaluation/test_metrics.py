from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from nlp_transfer.data.task import Task
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.decisions import decide, probabilities
from nlp_transfer.evaluation.metrics import (
    DEFAULT_METRIC,
    HIGHER_IS_BETTER,
    METRICS,
    compute,
    per_label,
    selection_metric,
)
from tests.evaluation.conftest import PROBLEMS, make_case

THREE = Task("single_label", ("a", "b", "c"), pair=False)


def same(first, second, tolerance=1e-12):
    assert first.keys() == second.keys()
    assert first == pytest.approx(second, rel=tolerance, abs=tolerance, nan_ok=True)


def test_single_label_by_hand():
    logits = np.log([[0.7, 0.2, 0.1], [0.2, 0.6, 0.2], [0.1, 0.8, 0.1], [0.2, 0.5, 0.3]])
    values = compute(THREE, logits, np.array([0, 0, 1, 2]))
    assert values == pytest.approx(
        {
            "accuracy": 2 / 4,
            "macro_f1": (2 / 3 + 2 / 4 + 0) / 3,
            "weighted_f1": (2 * 2 / 3 + 2 / 4 + 0) / 4,
            "log_loss": -(np.log(0.7) + np.log(0.2) + np.log(0.8) + np.log(0.3)) / 4,
            "brier": ((0.3**2 + 0.2**2 + 0.1**2) + (0.8**2 + 0.6**2 + 0.2**2) + 0.06 + (0.2**2 + 0.5**2 + 0.7**2)) / 4,
        }
    )


def test_soft_labels_by_hand():
    # predictions: b, a. Expected rows right: 3 * 0.75 (weight 3) + 1 * 0.5, out of 4.
    logits = np.log([[0.1, 0.8, 0.1], [0.6, 0.3, 0.1]])
    values = compute(THREE, logits, np.array([[0.25, 0.75, 0], [0.5, 0, 0.5]], np.float32), np.array([3, 1]))
    f1 = {"a": 2 * 0.5 / (0.75 + 0.5 + 1), "b": 2 * 2.25 / (2.25 + 3), "c": 0.0}
    loss = -3 * (0.25 * np.log(0.1) + 0.75 * np.log(0.8)) - 0.5 * (np.log(0.6) + np.log(0.1))
    first = 0.25 * (0.9**2 + 0.8**2 + 0.1**2) + 0.75 * (0.1**2 + 0.2**2 + 0.1**2)
    brier = 3 * first + 0.5 * (0.4**2 + 0.3**2 + 0.1**2) + 0.5 * (0.6**2 + 0.3**2 + 0.9**2)
    assert values == pytest.approx(
        {
            "accuracy": 2.75 / 4,
            "macro_f1": sum(f1.values()) / 3,
            "weighted_f1": (1.25 * f1["a"] + 2.25 * f1["b"]) / 4,
            "log_loss": loss / 4,
            "brier": brier / 4,
        }
    )


def test_multi_label_by_hand():
    task = Task("multi_label", ("a", "b"), pair=False)
    values = compute(task, np.array([[2.0, -1.0], [1.0, 1.0], [-1.0, -1.0]]), np.array([[1, 0], [0, 1], [0, 1]], float))
    loss = np.log1p(np.exp([[-2.0, -1.0], [1.0, -1.0], [-1.0, 1.0]])).mean()
    likely, truth = 1 / (1 + np.exp([[-2.0, 1.0], [-1.0, -1.0], [1.0, 1.0]])), [[1, 0], [0, 1], [0, 1]]
    brier = np.square(likely - truth).mean()
    assert values == pytest.approx(
        {"micro_f1": 4 / 6, "macro_f1": (2 / 3 + 2 / 3) / 2, "subset_accuracy": 1 / 3, "log_loss": loss, "brier": brier}
    )


def test_ordinal_by_hand():
    task = Task("ordinal", ("low", "mid", "high"), pair=False)
    values = compute(task, np.eye(3)[[0, 1, 0, 2]], np.array([0, 1, 2, 2]))
    assert values["mean_absolute_error"] == pytest.approx(2 / 4)
    # squared gaps observed 4 / 4; by chance E[t^2] + E[p^2] - 2 E[t] E[p] = 9/4 + 5/4 - 2 * 5/4 * 3/4
    assert values["quadratic_kappa"] == pytest.approx(1 - 1 / (9 / 4 + 5 / 4 - 2 * 5 / 4 * 3 / 4))


def test_regression_by_hand():
    task = Task("regression", (), pair=False)
    values = compute(task, np.array([1.0, 2.0, 6.0]), np.array([1.0, 3.0, 5.0], np.float32))
    assert values == pytest.approx(
        {
            "mean_squared_error": 2 / 3,
            "mean_absolute_error": 2 / 3,
            "pearson": 10 / np.sqrt(8 * 14),
            "spearman": 1.0,
            "r2": 1 - 2 / 8,
        }
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_equal_to_scikit_learn(weighted):
    for problem in ("single_label", "ordinal"):
        case = make_case(problem, weighted=weighted)
        truth, predicted = case.targets, case.logits.argmax(axis=1)
        values, options = compute(*case.arguments), {"sample_weight": case.weights}
        assert values["accuracy"] == sk.accuracy_score(truth, predicted, **options)
        assert values["macro_f1"] == pytest.approx(sk.f1_score(truth, predicted, average="macro", **options))
        assert values["weighted_f1"] == pytest.approx(sk.f1_score(truth, predicted, average="weighted", **options))
        assert values["log_loss"] == pytest.approx(
            sk.log_loss(truth, probabilities(case.task, case.logits), **options), rel=1e-6
        )
        squares = np.square(probabilities(case.task, case.logits) - np.eye(4)[truth]).sum(axis=1)
        assert values["brier"] == pytest.approx(np.average(squares, weights=case.weights))
    kappa = sk.cohen_kappa_score(truth, predicted, weights="quadratic", **options)
    assert values["quadratic_kappa"] == pytest.approx(kappa)
    assert values["mean_absolute_error"] == pytest.approx(sk.mean_absolute_error(truth, predicted, **options))

    case = make_case("multi_label", weighted=weighted)
    truth, predicted = case.targets.astype(int), (case.logits >= 0).astype(int)
    values, options = compute(*case.arguments), {"sample_weight": case.weights}
    for average in ("micro", "macro"):
        expected = sk.f1_score(truth, predicted, average=average, **options)
        assert values[f"{average}_f1"] == pytest.approx(expected)
    assert values["subset_accuracy"] == pytest.approx(sk.accuracy_score(truth, predicted, **options))

    case = make_case("regression", weighted=weighted)
    truth, predicted = case.targets.astype(float), case.logits[:, 0].astype(float)
    values, options = compute(*case.arguments), {"sample_weight": case.weights}
    for name, function in (("mean_squared_error", sk.mean_squared_error), ("r2", sk.r2_score)):
        assert values[name] == pytest.approx(function(truth, predicted, **options))
    if not weighted:
        assert values["pearson"] == pytest.approx(stats.pearsonr(truth, predicted)[0])
        assert values["spearman"] == pytest.approx(stats.spearmanr(truth, predicted)[0])


def test_every_metric_has_a_direction_and_is_computed(case):
    assert tuple(compute(*case.arguments)) == METRICS[case.task.problem]
    assert set(METRICS[case.task.problem]) <= HIGHER_IS_BETTER.keys()


def test_row_order_does_not_matter(case):
    order = np.random.default_rng(1).permutation(len(case.logits))
    weights = None if case.weights is None else case.weights[order]
    same(compute(*case.arguments), compute(case.task, case.logits[order], case.targets[order], weights))


def test_weight_two_is_the_row_twice_and_weight_zero_is_no_row(case):
    own = np.ones(len(case.logits)) if case.weights is None else case.weights
    counts = np.random.default_rng(1).integers(0, 3, len(case.logits))
    rows = np.repeat(np.arange(len(case.logits)), counts)
    repeated = (case.task, case.logits[rows], case.targets[rows], own[rows])
    weighted = (case.task, case.logits, case.targets, own * counts)
    same(compute(*weighted), compute(*repeated))
    for first, second in zip(per_label(*weighted), per_label(*repeated), strict=True):
        assert vars(first) == pytest.approx(vars(second), nan_ok=True)


def test_the_scale_of_weights_does_not_matter(case):
    own = np.ones(len(case.logits)) if case.weights is None else case.weights
    same(compute(*case.arguments), compute(case.task, case.logits, case.targets, own * 0.25))


@pytest.mark.parametrize("problem", ["single_label", "ordinal"])
def test_one_hot_soft_labels_are_hard_labels(problem):
    case = make_case(problem, weighted=True)
    soft = np.eye(len(case.task.labels), dtype=np.float32)[case.targets]
    same(compute(*case.arguments), compute(case.task, case.logits, soft, case.weights))
    assert per_label(*case.arguments) == per_label(case.task, case.logits, soft, case.weights)


@pytest.mark.parametrize("problem", ["single_label", "ordinal"])
def test_a_soft_row_equals_weighted_hard_rows(problem):
    case = make_case(problem, soft=True, weighted=True)
    rows, classes = np.nonzero(case.targets)
    weights = case.weights[rows] * case.targets[rows, classes]
    same(compute(*case.arguments), compute(case.task, case.logits[rows], classes, weights))


def test_the_macro_average_is_the_mean_over_labels(case):
    scores = [score.f1 for score in per_label(*case.arguments)]
    if case.task.problem == "regression":
        assert scores == []
    else:
        assert compute(*case.arguments)["macro_f1"] == pytest.approx(np.nanmean(scores))


def test_decisions_at_ties():
    assert decide(THREE, np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0]])).tolist() == [0, 1]
    multi = Task("multi_label", ("a", "b", "c"), pair=False)
    # The last one is a sigmoid of exactly 0.5 in any floating-point type, and yet below it.
    assert decide(multi, np.array([[0.0, -0.0, -1e-30]])).tolist() == [[True, True, False]]
    # A target of exactly one half is positive, too.
    assert compute(multi, np.array([[1.0, 1.0, -1.0]]), np.array([[0.5, 0.5, 0.49]]))["subset_accuracy"] == 1


def test_decisions_follow_from_probabilities(case):
    shown, decided = probabilities(case.task, case.logits), decide(case.task, case.logits)
    assert shown.shape == (len(case.logits), case.task.outputs)
    if case.task.problem == "multi_label":
        assert ((shown >= 0.5) == decided).all()
    elif case.task.problem == "regression":
        assert (shown[:, 0] == decided).all()
    else:
        assert shown.sum(axis=1) == pytest.approx(1)
        assert (shown.argmax(axis=1) == decided).all()


def test_absent_classes():
    # c never occurs and is never predicted: out of the macro average. b is predicted without occurring: counts as 0.
    scores = per_label(THREE, np.eye(3)[[0, 0, 1]], np.array([0, 0, 0]))
    assert [score.support for score in scores] == [3, 0, 0]
    assert scores[0].f1 == pytest.approx(0.8)
    assert scores[1].f1 == 0
    assert np.isnan([scores[1].recall, scores[2].f1, scores[2].precision, scores[2].recall]).all()
    assert compute(THREE, np.eye(3)[[0, 0, 1]], np.array([0, 0, 0]))["macro_f1"] == pytest.approx(0.4)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e9 / 3])
@pytest.mark.parametrize("side", ["predictions", "targets"])
def test_correlation_with_a_constant_is_undefined(constant, side):
    task, varied = Task("regression", (), pair=False), np.linspace(0, 1, 7).astype(np.float32)
    flat = np.full(7, constant, dtype=np.float32)
    weights = np.linspace(0.3, 1.1, 7)
    values = compute(task, *((flat, varied) if side == "predictions" else (varied, flat)), weights)
    assert np.isnan([values["pearson"], values["spearman"]]).all()
    assert np.isnan(values["r2"]) == (side == "targets")
    assert values["mean_squared_error"] == pytest.approx(
        np.average((flat.astype(float) - varied) ** 2, weights=weights)
    )


def test_kappa_and_micro_f1_without_anything_to_measure():
    ordinal = Task("ordinal", ("a", "b", "c"), pair=False)
    assert np.isnan(compute(ordinal, np.eye(3)[[1, 1]], np.array([1, 1]))["quadratic_kappa"])
    multi = Task("multi_label", ("a", "b"), pair=False)
    values = compute(multi, -np.ones((3, 2)), np.zeros((3, 2)))
    assert np.isnan([values["micro_f1"], values["macro_f1"]]).all()
    assert values["subset_accuracy"] == 1


@pytest.mark.parametrize("problem", PROBLEMS)
def test_no_rows_is_undefined(problem):
    case = make_case(problem)
    for values in (
        compute(case.task, case.logits[:0], case.targets[:0]),
        compute(case.task, case.logits, case.targets, np.zeros(len(case.logits))),
    ):
        assert tuple(values) == METRICS[problem]
        assert np.isnan(list(values.values())).all()


def test_one_label_multi_label():
    task = Task("multi_label", ("only",), pair=False)
    logits, targets = np.array([[1.0], [1.0], [-1.0], [-1.0]]), np.array([[1.0], [0.0], [1.0], [0.0]])
    values = compute(task, logits, targets)
    assert values["micro_f1"] == values["macro_f1"] == values["subset_accuracy"] == 0.5
    assert [(score.support, score.f1) for score in per_label(task, logits, targets)] == [(2, 0.5)]


@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_broken_logits_are_an_error_not_a_score(problem, broken):
    case = make_case(problem)
    case.logits[3, 0] = broken
    with pytest.raises(UserError, match="1 of 120 rows"):
        compute(*case.arguments)


def test_huge_logits_keep_their_loss():
    assert compute(THREE, np.array([[0.0, 900.0, 0.0]]), np.array([0]))["log_loss"] == pytest.approx(900)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_selection_metric(problem):
    task = replace(THREE, problem=problem)
    assert selection_metric(task, "auto") == DEFAULT_METRIC[problem]
    assert DEFAULT_METRIC[problem] in METRICS[problem]
    assert HIGHER_IS_BETTER[DEFAULT_METRIC[problem]]
    for name in METRICS[problem]:
        assert selection_metric(task, name) == name
    other = "r2" if problem != "regression" else "macro_f1"
    with pytest.raises(UserError, match=f"not a metric of a {problem} task; choose from: auto, "):
        selection_metric(task, other)
    with pytest.raises(UserError, match=f"did you mean '{METRICS[problem][0]}'"):
        selection_metric(task, METRICS[problem][0] + "x")


def test_importing_the_package_imports_no_heavy_library():
    code = (
        "import sys; from nlp_transfer.evaluation import baselines, intervals, metrics, report; "
        "print([name for name in ('torch', 'sklearn', 'scipy', 'evaluate', 'datasets') if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
