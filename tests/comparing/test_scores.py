"""Figures, intervals and tests are those of their definitions, and of the same rows for everybody."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from nlp_transfer.comparing.grid import Trial
from nlp_transfer.comparing.scores import TrialScores, errors, holm, mcnemar, over_seeds, probability
from nlp_transfer.comparing.slices import slices
from nlp_transfer.comparing.trial import TrialOutputs
from nlp_transfer.data.corpus import Examples
from nlp_transfer.data.task import Task
from nlp_transfer.evaluation.intervals import Bootstrap
from nlp_transfer.evaluation.names import goodness
from tests.evaluation.bootstraps import bootstrap

TASK = Task(problem="single_label", labels=("no", "yes"), pair=False)
ROWS = 200


def examples(rows: int = ROWS, *, domains: list[str] | None = None) -> Examples:
    targets = np.arange(rows) % 2
    texts = ["word " * (1 + row % 7) for row in range(rows)]
    return Examples(texts, None, targets, np.ones(rows, np.float32), [f"{row:04}" for row in range(rows)], domains)


def answers(right: np.ndarray, of: Examples | None = None) -> TrialOutputs:
    """Return answers that are right where it is said."""
    targets = (examples() if of is None else of).targets
    chosen = np.where(right, targets, 1 - targets)
    return TrialOutputs(TASK, np.eye(2)[chosen].astype(np.float32))


def right(share: float, seed: int, rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(seed).random(rows) < share


def contest(
    given: dict[tuple[str, int], TrialOutputs], *, of: Examples | None = None, resamples: int = 500
) -> TrialScores:
    known = {Trial(name, "all", seed): each for (name, seed), each in given.items()}
    of = examples() if of is None else of
    return TrialScores(of, "accuracy", known, Bootstrap(resamples, seed=0))


def test_mcnemars_test_is_the_binomial_one_on_the_rows_that_differ():
    gains = np.array([1.0] * 8 + [-1.0] * 2 + [0.0] * 40)
    wins, losses, p = mcnemar(gains)
    assert (wins, losses) == (8, 2)
    assert p == pytest.approx(2 * (1 + 10 + 45) / 2**10)
    assert mcnemar(np.zeros(5)) == (0, 0, 1.0)


def test_holms_correction_multiplies_by_the_remaining_tests():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_with_one_seed_the_interval_is_that_of_a_run():
    one = answers(right(0.8, 1))
    found = contest({("one", 0): one}).figure("one", "all")
    rows = examples()
    same = bootstrap(TASK, one.logits, rows.targets, rows.weights, resamples=500, confidence=0.95, seed=0)
    assert found == same["accuracy"]


def test_figures_are_means_over_seeds_and_seeds_widen_the_interval():
    steady = {("steady", seed): answers(right(0.8, 1)) for seed in range(3)}
    moody = {("moody", seed): answers(right(share, 2)) for seed, share in enumerate((0.7, 0.8, 0.9))}
    found = contest(steady | moody)
    figure = {name: found.figure(name, "all") for name in ("steady", "moody")}
    assert figure["moody"].value == pytest.approx(np.mean(found.values("moody", "all")))
    rows = contest({("steady", 0): answers(right(0.8, 1))}).figure("steady", "all")
    assert dataclasses.astuple(figure["steady"]) == pytest.approx(dataclasses.astuple(rows))  # they agree
    reach = 4.3027 * np.std(found.values("moody", "all"), ddof=1) / np.sqrt(3)  # t with two degrees of freedom
    assert figure["moody"].value - figure["moody"].low >= reach
    assert figure["moody"].high == 1.0  # and no accuracy is above that


def test_intervals_over_rows_and_seeds_have_their_coverage():
    """Intervals of means that vary over rows and seeds cover the truth in about 95 of 100 cases."""
    held = 0
    for number in range(300):
        draws = np.random.default_rng(number)
        rows, seeds = draws.normal(0, 0.01), draws.normal(0, 0.03, 3)
        drawn = rows + seeds[:, None] + draws.normal(0, 0.01, 400)[None]
        found = over_seeds((rows + seeds).tolist(), drawn, confidence=0.95)
        held += found.low <= 0 <= found.high
    assert 0.92 <= held / 300 <= 0.99


@pytest.mark.parametrize("shares", [(0.99, 0.5), (0.02, 0.5)])
def test_intervals_stay_within_the_range_of_the_metric(shares: tuple[float, float]):
    """The reach over two seeds would: Student's t of one degree of freedom is far from zero."""
    both = {("a", seed): answers(right(share, seed)) for seed, share in enumerate(shares)}
    both |= {("b", seed): answers(~right(share, seed)) for seed, share in enumerate(shares)}
    made = contest(both)
    figure = made.figure("a", "all")
    assert (figure.low, figure.high) == (0, 1)
    (duel,) = made.paired_tests([("a", "b", "all")])
    assert (duel.difference.low, duel.difference.high) == (-1, 1)
    gains = np.stack([np.repeat([1.0, -1.0], [150, 50]), np.repeat([1.0, -1.0], [20, 180])])
    for each in slices(TASK, examples(), gains, Bootstrap(100, seed=0)):
        assert (each.gain.low, each.gain.high) == (-1, 1)


def test_a_comparison_of_two_is_paired():
    """Two that differ on six rows: their own intervals overlap, that of the difference does not hold zero."""
    good = right(0.7, 1)
    better = good | (np.cumsum(~good) <= 6)
    of = contest({("better", 0): answers(better), ("good", 0): answers(good), ("same", 0): answers(good)})
    (duel, equal) = of.paired_tests([("better", "good", "all"), ("good", "same", "all")])
    assert of.figure("better", "all").low < of.figure("good", "all").high
    assert duel.outcome == "better"
    assert duel.difference.value == pytest.approx(6 / ROWS)
    assert (duel.wins, duel.losses) == (6, 0)
    assert duel.rows_p == pytest.approx(2 / 2**6)
    assert duel.rows_adjusted == pytest.approx(2 * duel.rows_p)
    assert duel.adjusted == pytest.approx(2 * duel.p)
    assert (equal.difference.low, equal.difference.high, equal.p, equal.outcome) == (0, 0, 1, "no evidence")
    (reverse,) = of.paired_tests([("good", "better", "all")])
    assert reverse.outcome == "worse"
    assert reverse.difference.value == -duel.difference.value


@pytest.mark.parametrize("seeds", [1, 3])
def test_p_values_agree_with_intervals(seeds: int):
    """For every confidence, on differences that the rows and the seeds move near to zero and far from it."""
    for number in range(20):
        draws = np.random.default_rng(number)
        values = draws.normal(0.02, 0.01, seeds)
        drawn = values[:, None] + draws.normal(0, 0.01, (seeds, 400))
        p = probability(values.tolist(), drawn)
        assert 2 / 401 <= p <= 1
        for confidence in (0.5, 0.8, 0.95, 0.99):
            found = over_seeds(values.tolist(), drawn, confidence=confidence)
            assert (p < 1 - confidence) == (found.low > 0 or found.high < 0)
        assert probability((-values).tolist(), -drawn) == pytest.approx(p, abs=1e-6)
    assert probability([0.1], np.empty((1, 0))) == probability([np.nan], np.full((1, 9), np.nan)) == 1


def test_the_correction_grows_with_the_number_of_tests():
    """The same duel, by itself and in a family of pairs that differ by nothing."""
    good = right(0.7, 1)
    better = good | (np.cumsum(~good) <= 6)
    given = {("better", 0): answers(better), ("good", 0): answers(good)}
    given |= {(f"same {number}", 0): answers(good) for number in range(40)}
    of = contest(given)
    (alone,) = of.paired_tests([("better", "good", "all")])
    among, *others = of.paired_tests(
        [("better", "good", "all"), *((f"same {number}", "good", "all") for number in range(40))]
    )
    assert (alone.outcome, among.outcome) == ("better", "no evidence")
    assert among.difference == alone.difference
    assert among.is_apart
    assert not any(each.is_apart for each in others)


def test_false_positives_are_rare_for_any_number_of_verdicts():
    """A family of five errs in any of them in about five of 100 comparisons; uncorrected it would in 23."""
    wrong = 0
    for number in range(100):
        draws = np.random.default_rng(number)
        found = draws.normal(0, 0.01, 5)
        tests = [probability([value], value + draws.normal(0, 0.01, (1, 400))) for value in found]
        wrong += min(holm(tests)) < 0.05
    assert wrong <= 12


def test_only_seeds_that_both_have_are_compared():
    of = contest(
        {("one", 0): answers(right(0.9, 1)), ("one", 1): answers(right(0.1, 2)), ("two", 0): answers(right(0.9, 1))}
    )
    (duel,) = of.paired_tests([("one", "two", "all")])
    assert duel.difference.value == 0
    assert of.paired_tests([("one", "nobody", "all")]) == []


@pytest.mark.slow
def test_false_positives_are_rare_when_trainings_vary():
    called = 0
    for number in range(100):
        draws = np.random.default_rng(number)
        given = {
            (name, seed): answers(draws.random(ROWS) < 0.7 + draws.normal(0, 0.05))
            for name in ("one", "two")
            for seed in range(3)
        }
        (duel,) = contest(given, resamples=100).paired_tests([("one", "two", "all")])
        called += duel.outcome != "no evidence"
    assert called <= 9


def test_undefined_figures_are_worst_in_either_direction():
    for metric in ("accuracy", "log_loss"):
        assert goodness(np.nan, metric) == goodness(None, metric) == -np.inf
    assert goodness(0.2, "log_loss") > goodness(0.3, "log_loss")


@pytest.mark.parametrize(
    ("task", "logits", "targets", "expected"),
    [
        (TASK, [[0, 1], [1, 0]], np.array([1, 1]), [0, 1]),
        (TASK, [[0, 1], [1, 0]], np.array([[0.25, 0.75], [0.25, 0.75]]), [0.25, 0.75]),
        (Task("ordinal", ("1", "2", "3"), False), [[1, 0, 0], [0, 0, 1]], np.array([2, 2]), [2, 0]),
        (Task("multi_label", ("a", "b"), False), [[1, 1], [-1, 1]], np.array([[1, 0], [1, 0]]), [1, 2]),
        (Task("regression", (), False), [[1.0], [3.0]], np.array([1.5, 3.0]), [0.5, 0]),
    ],
)
def test_errors_are_those_of_the_problem(task: Task, logits: list, targets: np.ndarray, expected: list[float]):
    assert errors(task, np.array(logits, np.float32), targets) == pytest.approx(expected)


def test_a_slice_with_few_large_gains_has_no_verdict():
    """Numbers: five rows are a little better, 25 much worse by count and better by size."""
    task, of = Task("regression", (), False), examples(60, domains=["home"] * 30 + ["away"] * 30)
    gains = np.zeros((1, 60))
    gains[0, :25], gains[0, 25:30] = -0.1, 10.0
    found = slices(task, of, gains, Bootstrap(200, seed=0))
    (home,) = (each for each in found if each.name == "home")
    assert home.gain.value > 0
    assert home.adjusted < 0.05
    assert home.outcome == "no evidence"


def test_a_harmed_slice_is_found_alone():
    of = examples(400, domains=["home" if row % 4 else "away" for row in range(400)])
    base = right(0.7, 3, 400)
    hurt = np.array([domain == "away" for domain in of.domains or []]) & (of.targets == 0)
    given = {("one", 0): answers(base & ~hurt, of), ("baseline", 0): answers(base, of)}
    gains = contest(given, of=of).gains("one", "baseline", "all")
    found = slices(TASK, of, gains, Bootstrap(200, seed=0))
    assert {(each.kind, each.name): each.outcome for each in found if each.kind != "length"} == {
        ("label", "no"): "worse",
        ("label", "yes"): "no evidence",
        ("domain", "away"): "worse",
        ("domain", "home"): "no evidence",
    }
    lengths = [each for each in found if each.kind == "length"]
    assert sum(each.rows for each in lengths) == 400
    for each in found:
        assert each.gain.low <= each.gain.value <= each.gain.high
