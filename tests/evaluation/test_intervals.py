from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nlp_transfer.data.task import Task
from nlp_transfer.evaluation import intervals
from nlp_transfer.evaluation.intervals import Bootstrap, Interval, interval, jackknife, outcome
from nlp_transfer.evaluation.metrics import METRICS, compute
from tests.evaluation.bootstraps import bootstrap
from tests.evaluation.conftest import PROBLEMS, make_case

OPTIONS = {"resamples": 40, "confidence": 0.9, "seed": 3}


def replicated(task, logits, targets, weights, *, metrics, **options):
    """The replicates of one model."""
    (drawn,) = Bootstrap(**options).replicates([task], [logits], targets, weights, metrics=metrics)
    return drawn


def test_replicates_are_the_metrics_of_the_drawn_rows(case):
    names = METRICS[case.task.problem]
    drawn = replicated(*case.arguments, metrics=names, resamples=4, seed=3)
    own = np.ones(len(case.logits)) if case.weights is None else case.weights
    generator = np.random.default_rng(3)
    for resample in range(4):
        rows = generator.integers(len(own), size=len(own))
        expected = compute(case.task, case.logits[rows], case.targets[rows], own[rows])
        assert {name: drawn[name][resample] for name in names} == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("problem", ["single_label", "ordinal"])
def test_soft_labels_that_do_not_quite_sum_to_one(problem):
    case = make_case(problem, soft=True)
    targets = (
        case.targets * np.linspace(0.5, 1, len(case.targets))[:, None]
    )  # far more than reading rows would let pass
    names = METRICS[problem]
    drawn = replicated(case.task, case.logits, targets, None, metrics=names, resamples=1, seed=0)
    rows = np.random.default_rng(0).integers(len(targets), size=len(targets))
    assert {name: drawn[name][0] for name in names} == pytest.approx(
        compute(case.task, case.logits[rows], targets[rows])
    )


@pytest.mark.parametrize("problem", PROBLEMS)
def test_replicates_where_classes_go_missing(problem):
    # 4 rows and 5 classes: every resample lacks a class, some hold a single row four times.
    case = make_case(problem, rows=4, labels=5, seed=1)
    names = METRICS[problem]
    drawn = replicated(*case.arguments, metrics=names, resamples=40, seed=0)
    generator, undefined = np.random.default_rng(0), 0
    for resample in range(40):
        rows = generator.integers(4, size=4)
        expected = compute(case.task, case.logits[rows], case.targets[rows])
        found = {name: drawn[name][resample] for name in names}
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-9, nan_ok=True)
        undefined += np.isnan(list(expected.values())).any()
    assert undefined or problem in ("single_label", "multi_label")


def test_values_are_those_of_compute_and_lie_inside(case):
    found = bootstrap(*case.arguments, **OPTIONS)
    assert {name: figures.value for name, figures in found.items()} == compute(*case.arguments)
    for figures in found.values():
        assert figures.low < figures.value < figures.high


def test_deterministic_in_the_seed_whatever_the_blocks(case, monkeypatch):
    first = bootstrap(*case.arguments, **OPTIONS)
    monkeypatch.setattr(intervals, "_BLOCK", 7 * len(case.logits))
    assert bootstrap(*case.arguments, **OPTIONS) == first
    assert bootstrap(*case.arguments, **(OPTIONS | {"seed": 4})) != first


def test_wider_confidence_is_a_wider_interval(case):
    names = METRICS[case.task.problem]
    narrow = bootstrap(*case.arguments, **OPTIONS)
    wide = bootstrap(*case.arguments, **(OPTIONS | {"confidence": 0.99}))
    for name in names:
        assert wide[name].low <= narrow[name].low < narrow[name].high <= wide[name].high


def _symmetric(rng, rows):
    """Three classes, right with probability 0.7, else either of the others: accuracy and macro-F1 are 0.7."""
    truth = rng.integers(3, size=rows)
    predicted = (truth + rng.choice(3, p=[0.7, 0.15, 0.15], size=rows)) % 3
    return Task("single_label", ("a", "b", "c"), pair=False), np.eye(3)[predicted], truth


def _correlated(rng, rows):
    """Standard normal pairs with correlation 0.6."""
    truth = rng.normal(size=rows)
    return Task("regression", (), pair=False), (0.6 * truth + 0.8 * rng.normal(size=rows))[:, None], truth


@pytest.mark.slow
@pytest.mark.parametrize(
    ("population", "metric", "true"),
    [(_symmetric, "accuracy", 0.7), (_symmetric, "macro_f1", 0.7), (_correlated, "pearson", 0.6)],
)
def test_coverage(population, metric, true):
    rng, covered = np.random.default_rng(0), 0
    for seed in range(200):
        drawn = replicated(*population(rng, 200), None, metrics=[metric], resamples=200, seed=seed)[metric]
        found = interval(true, drawn, confidence=0.95)
        covered += found.low <= true <= found.high
    # 95 % up to 2.5 standard errors of 200 repetitions and the few per cent a percentile interval of 200 rows lacks
    assert 0.90 < covered / 200 < 0.98


def test_a_jackknife_has_its_coverage_and_is_exact_for_a_mean():
    rng, covered = np.random.default_rng(0), 0
    for seed in range(200):
        x = rng.exponential(size=100)
        found = jackknife(lambda rows, x=x: float(x[rows].mean()), 100, confidence=0.95, seed=seed)
        assert found.value == pytest.approx(x.mean())
        covered += found.low <= 1 <= found.high
    assert 0.90 < covered / 200 < 0.99
    singly = jackknife(lambda rows: float(x[rows].mean()), 100, confidence=0.95, seed=0, groups=100)
    assert singly.high - singly.value == pytest.approx(stats.t.ppf(0.975, 99) * stats.sem(x))  # one row a group


@given(st.floats(-3, 3), st.floats(0, 2), st.floats(0, 2), st.sampled_from([1, -1]))
def test_a_difference_counts_if_its_interval_excludes_zero(value: float, below: float, above: float, sign: int):
    found = Interval(value, value - below, value + above)
    output = outcome(found, sign)
    assert (output == "better") == all(sign * end > 0 for end in (found.low, found.high))
    assert (output == "worse") == all(sign * end < 0 for end in (found.low, found.high))
    assert outcome(Interval(value, np.nan, np.nan), sign) == "no evidence"


def test_undefined_replicates_are_left_out():
    assert interval(0.5, np.array([0.4, np.nan, 0.6, np.nan]), confidence=1.0) == Interval(0.5, 0.4, 0.6)
    nothing = interval(0.5, np.array([np.nan]), confidence=0.95)
    assert np.isnan([nothing.low, nothing.high]).all()


def test_without_resamples_there_are_values_only(case):
    found = bootstrap(*case.arguments, **(OPTIONS | {"resamples": 0}))
    for figures in found.values():
        assert not np.isnan(figures.value)
        assert np.isnan([figures.low, figures.high]).all()


def test_without_rows_nothing_is_defined(case):
    found = bootstrap(case.task, case.logits[:0], case.targets[:0], None, **OPTIONS)
    assert np.isnan([[figures.value, figures.low, figures.high] for figures in found.values()]).all()


def test_models_are_replicated_on_the_same_rows(case):
    models = [case.logits, 2 * case.logits, -case.logits]
    names, options = METRICS[case.task.problem], {"resamples": 20, "seed": 0}
    tasks = [case.task] * len(models)
    together = Bootstrap(**options).replicates(tasks, models, case.targets, case.weights, metrics=names)
    for found, logits in zip(together, models, strict=True):
        alone = replicated(case.task, logits, case.targets, case.weights, metrics=names, **options)
        for name, values in alone.items():
            np.testing.assert_array_equal(found[name], values)
