"""The temperature that is planted is found, does no harm to few rows, and the error is that of the definition."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, softmax

from nlp_transfer.data.task import Task
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.calibration import Calibration, calibrate, calibration_error, error_by_chance, temperature
from nlp_transfer.evaluation.decisions import abstains, decide, probabilities, with_rules
from nlp_transfer.evaluation.metrics import compute
from nlp_transfer.evaluation.names import DEFAULT_METRIC
from nlp_transfer.evaluation.sums import row_losses
from nlp_transfer.settings import DecisionSettings
from tests.evaluation.conftest import make_case

CLASSES = ("single_label", "multi_label", "ordinal")


def drawn(problem: str, rows: int, *, seed: int = 0):
    """Logits whose probabilities are the truth, and targets drawn from it."""
    rng = np.random.default_rng(seed)
    task = Task(problem, ("a", "b", "c"), pair=False)
    logits = 2 * rng.normal(size=(rows, 3))
    if problem == "multi_label":
        return task, logits, (rng.random(logits.shape) < expit(logits)).astype(np.float32)
    return task, logits, np.array([rng.choice(3, p=row) for row in softmax(logits, axis=1)])


@pytest.mark.parametrize("problem", CLASSES)
@pytest.mark.parametrize("planted", [0.3, 1.0, 4.0])
def test_a_planted_temperature_is_found(problem, planted):
    task, logits, targets = drawn(problem, 4000)
    weights = np.ones(len(logits))
    found = temperature(task, logits * planted, targets, weights)
    assert found == pytest.approx(planted, rel=0.06)
    before, after = (calibration_error(task, each, targets, weights) for each in (logits * planted, logits))
    assert after < 0.03
    assert before > after + 0.02 or planted == 1


def test_a_row_of_weight_two_is_two_rows():
    case = make_case("single_label", weighted=True)
    copies = np.repeat(np.arange(len(case.logits)), (2 * case.weights).astype(int))
    task, (logits, targets) = case.task, (part[copies] for part in (case.logits, case.targets))
    ones = np.ones(len(copies), np.float32)
    assert calibration_error(task, logits, targets, ones) == pytest.approx(calibration_error(*case.arguments))
    assert temperature(task, logits, targets, ones) == pytest.approx(temperature(*case.arguments), rel=0.05)


@pytest.mark.parametrize("problem", CLASSES)
def test_rows_of_no_weight_are_none(problem):
    task, logits, targets = drawn(problem, 60)
    weights = np.repeat([1.0, 0.0], 30)
    alone = temperature(task, logits[:30], targets[:30], np.ones(30))
    assert temperature(task, logits, targets, weights) == pytest.approx(alone, rel=1e-6)
    assert calibration_error(task, logits, targets, weights) == pytest.approx(
        calibration_error(task, logits[:30], targets[:30], np.ones(30))
    )


@pytest.mark.parametrize("problem", CLASSES)
def test_the_temperature_minimises_the_cost(problem):
    """By the formula: the losses of the rows, one of a row with equal label shares, and the prior."""
    case = make_case(problem, soft=True, weighted=True)
    task, logits, targets, weights = case.task, case.logits.astype(float), case.targets.astype(float), case.weights
    sure = 6 * logits
    several, often = 1, 1 / targets.shape[1]
    if problem == "multi_label":
        several = targets.shape[1]
        ones = targets.size * np.average(targets.mean(axis=1), weights=weights)
        often = (ones + 1) / (targets.size + 2)

    def cost(scale):
        alike = np.full_like(targets, often)
        losses = len(sure) * row_losses(task, sure / scale, targets) + row_losses(task, sure / scale, alike)
        return several * np.average(losses, weights=weights) + np.log(scale) ** 2 / (2 * 0.5**2)

    found = temperature(task, sure, targets, weights)
    assert cost(found) <= min(cost(scale) for scale in np.geomspace(0.06, 16, 400)) + 1e-3
    assert found > 1


@pytest.mark.parametrize("problem", CLASSES)
def test_few_rows_move_it_little_and_rows_that_are_all_right_not_to_the_end(problem):
    task, logits, _ = drawn(problem, 500)
    right = decide(task, logits).astype(np.float32 if problem == "multi_label" else np.int64)
    found = temperature(task, logits, right, np.ones(500))
    likely = probabilities(task, logits / found)
    stated = np.maximum(likely, 1 - likely) if problem == "multi_label" else likely.max(axis=1)
    assert 0.25 / 500 < 1 - stated.mean() < 0.05  # surer than before, but an error in 500 rows was possible
    assert found < temperature(task, logits[:5], right[:5], np.ones(5)) < 1
    case = make_case("regression")
    assert temperature(case.task, case.logits, case.targets, np.ones(len(case.targets))) == 1


@pytest.mark.parametrize(("labels", "usual"), [(30, -4.0), (30, 0.0), (5, 4.0), (1, 2.0), (1, -2.0)])
def test_few_rows_leave_right_probabilities_as_they_are_however_rare_labels_are(labels, usual):
    task, draws, found = Task("multi_label", tuple(map(str, range(labels))), pair=False), np.random.default_rng(0), []
    for _ in range(40):
        logits = draws.normal(usual, 1.0, (10, labels))
        targets = (draws.random(logits.shape) < expit(logits)).astype(np.float32)
        found.append(temperature(task, logits, targets, np.ones(10)))
    assert np.median(found) == pytest.approx(1, abs=0.15)


def test_the_calibration_error_agrees_with_a_hand_computed_example():
    task = Task("single_label", ("a", "b"), pair=False)
    logits = np.log([[0.9, 0.1], [0.91, 0.09], [0.3, 0.7], [0.45, 0.55]])
    # bins of 1/15: .9 and .91 share one, (2 right of 2); .7 is wrong, .55 right
    expected = (abs(1.81 - 2) + 0.7 + (1 - 0.55)) / 4
    assert calibration_error(task, logits, np.array([0, 0, 0, 1]), np.ones(4)) == pytest.approx(expected)
    soft = np.array([[1, 0], [0.5, 0.5], [0, 1], [0, 1]], np.float32)
    expected = (abs(1.81 - 1.5) + 0.3 + 0.45) / 4
    assert calibration_error(task, logits, soft, np.ones(4)) == pytest.approx(expected)
    assert np.isnan(calibration_error(task, logits, soft, np.zeros(4)))


def test_calibrated_models_stay_below_the_error_by_chance():
    below = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        logits = 2 * rng.normal(size=(300, 3))
        targets = np.array([rng.choice(3, p=each) for each in softmax(logits, axis=1)])
        known = Task("single_label", ("a", "b", "c"), pair=False), logits, targets, np.ones(300)
        chance = error_by_chance(*known, confidence=0.9, seed=0)
        below += calibration_error(*known) <= chance
        assert 0.02 < chance < 0.12
        sure = known[0], 3 * logits, targets, np.ones(300)
        assert calibration_error(*sure) > error_by_chance(*sure, confidence=0.9, seed=0)
    assert 82 <= below <= 97
    case = make_case("regression")
    assert np.isnan(error_by_chance(*case.arguments, confidence=0.9, seed=0))


def test_a_model_that_abstains_still_has_a_best_guess():
    task = Task("single_label", ("a", "b"), pair=False)
    logits = np.log([[0.9, 0.1], [0.3, 0.7], [0.45, 0.55]])
    assert not abstains(task, logits).any()
    careful = with_rules(task, DecisionSettings(abstain_below=0.7 + 1e-9))
    assert abstains(careful, logits).tolist() == [False, True, True]
    assert (decide(careful, logits) == decide(task, logits)).all()
    assert compute(careful, logits, np.array([0, 0, 1])) == compute(task, logits, np.array([0, 0, 1]))
    assert with_rules(careful, DecisionSettings()) == careful
    assert with_rules(careful, DecisionSettings(abstain_below=0)) == task


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.8])
def test_a_threshold_decides_where_the_probability_reaches_it(threshold):
    case = make_case("multi_label")
    task = with_rules(case.task, DecisionSettings(threshold=threshold))
    assert (decide(task, case.logits) == (probabilities(task, case.logits) >= threshold)).all()


@pytest.mark.parametrize(
    ("problem", "rule"),
    [
        ("single_label", {"threshold": 0.4}),
        ("regression", {"threshold": 0.4}),
        ("multi_label", {"abstain_below": 0.4}),
        ("regression", {"abstain_below": 0.4}),
    ],
)
def test_a_rule_that_does_not_apply_to_the_problem_is_refused(problem, rule):
    with pytest.raises(UserError, match=f"decision.{next(iter(rule))} is for"):
        with_rules(make_case(problem).task, DecisionSettings(**rule))


def biased(problem: str, rows: int, shift: np.ndarray, *, seed: int = 0):
    """Rows of classes with different frequencies, and a model that assumes equal ones."""
    rng = np.random.default_rng(seed)
    likely = softmax(shift)
    targets = rng.choice(len(shift), size=rows, p=likely)
    centres = 2 * np.eye(len(shift))
    points = centres[targets] + rng.normal(size=(rows, len(shift)))
    return Task(problem, ("a", "b", "c"), pair=False), points @ centres.T, targets


SHIFT = np.array([1.5, -0.5, -1.0])


@pytest.mark.parametrize("problem", ["single_label", "ordinal"])
def test_shifts_correct_half_of_a_frequency_difference(problem):
    task, logits, targets = biased(problem, 3000, SHIFT)
    found = calibrate(task, logits, targets, np.ones(len(targets)), metric="macro_f1")
    assert found.temperature == pytest.approx(1, abs=0.15)
    assert np.array(found.shifts) - np.mean(found.shifts) == pytest.approx(SHIFT / 2, abs=0.15)
    _, fresh, truth = biased(problem, 3000, SHIFT, seed=1)
    before, after = (compute(task, each, truth) for each in (fresh, found.apply(fresh)))
    assert after["log_loss"] < before["log_loss"]
    assert after["accuracy"] > before["accuracy"]
    np.testing.assert_allclose(found.undo(found.apply(fresh)), fresh)


def test_shifts_are_half_of_the_maximum_a_posteriori_ones():
    """By the formula, with soft labels and weights: no other shifts near them cost less."""
    case = make_case("single_label", soft=True, weighted=True)
    rng = np.random.default_rng(0)
    logits = case.logits.astype(float) + np.array([3.0, *np.zeros(case.logits.shape[1] - 1)])
    found = calibrate(case.task, logits, case.targets, case.weights, metric="log_loss")
    assert found.shifts
    present = case.weights > 0

    def cost(shifts):
        losses = row_losses(case.task, logits / found.temperature + shifts, case.targets)
        return present.sum() * np.average(losses, weights=case.weights) + shifts @ shifts / 2

    best = 2 * np.array(found.shifts)
    others = [best + scale * rng.normal(size=best.shape) for scale in (0.01, 0.1, 1.0) for _ in range(100)]
    assert cost(best) < min(map(cost, others))


def test_a_model_with_right_frequencies_gets_no_shifts():
    taken = 0
    for seed in range(40):
        task, logits, targets = biased("single_label", 300, np.zeros(3), seed=seed)
        found = calibrate(task, logits, targets, np.ones(len(targets)), metric="macro_f1")
        taken += bool(found.shifts)
        np.testing.assert_array_less(np.abs(found.shifts), 0.4)
    assert taken <= 8  # one standard error: at most one in six by chance


@pytest.mark.parametrize("problem", ["multi_label", "regression"])
def test_other_tasks_have_no_shifts(problem):
    case = make_case(problem, weighted=True)
    assert calibrate(*case.arguments, metric=DEFAULT_METRIC[problem]) == Calibration(temperature(*case.arguments))


def test_weighted_classes_get_no_shifts():
    task, logits, targets = biased("single_label", 600, SHIFT)
    known = logits, targets, np.ones(600)
    assert calibrate(task, *known, metric="accuracy").shifts
    weighed = replace(task, class_weights=(1.0, 2.0, 2.0))
    assert not calibrate(weighed, *known, metric="accuracy").shifts


def test_shifts_that_cost_the_metric_are_not_taken():
    """Where evidence is weak, log-loss and accuracy want the rarer class given seldom, and macro-F1 does not."""
    rng = np.random.default_rng(0)
    targets = (rng.random(800) < 0.3).astype(np.int64)
    evidence = 0.3 * targets + rng.normal(size=800)
    logits = np.stack([np.zeros(800), 0.3 * evidence - 0.045], axis=1)  # right if both were alike frequent
    known = Task("single_label", ("a", "b"), pair=False), logits, targets, np.ones(800)
    taken = calibrate(*known, metric="accuracy")
    assert taken.shifts
    before, after = (compute(known[0], each, targets) for each in (logits, taken.apply(logits)))
    assert after["accuracy"] > before["accuracy"] + 0.1
    assert after["macro_f1"] < before["macro_f1"] - 0.05
    assert not calibrate(*known, metric="macro_f1").shifts


def test_rows_without_weight_shift_nothing():
    task, logits, targets = biased("single_label", 200, SHIFT)
    both = np.concatenate([logits, -logits]), np.concatenate([targets, targets])
    weights = np.repeat([1.0, 0.0], 200)
    alone = calibrate(task, logits, targets, np.ones(200), metric="macro_f1")
    assert alone.shifts
    assert calibrate(task, *both, weights, metric="macro_f1").shifts == pytest.approx(alone.shifts, abs=1e-6)
    assert not calibrate(task, *both, np.repeat([1.0, 0.0], [5, 395]), metric="macro_f1").shifts


def test_a_class_without_rows_gets_no_shift():
    """Its absence from validation rows is no evidence of its frequency; only the others are reweighted."""
    task, logits, targets = biased("single_label", 2000, np.array([1.0, -1.0, 0.0]))
    there = targets < 2
    found = calibrate(task, logits[there], targets[there], np.ones(there.sum()), metric="macro_f1")
    assert found.shifts
    assert found.shifts[2] == 0
    assert sum(found.shifts) == pytest.approx(0, abs=1e-6)
    assert found.shifts[0] - found.shifts[1] == pytest.approx(1, abs=0.15)
