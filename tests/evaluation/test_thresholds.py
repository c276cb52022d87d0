"""Thresholds are those that make F1 largest: by trying all of them, and in expectation by drawing targets."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.special import expit, logit

from nlp_transfer.data.task import Task
from nlp_transfer.evaluation.metrics import compute
from nlp_transfer.evaluation.thresholds import empirical, expected

LABELS = ("a", "b", "c", "d")
TASK = Task("multi_label", LABELS, pair=False)


def made(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Calibrated logits of labels that are rare to frequent, targets drawn from them, and weights."""
    draws = np.random.default_rng(seed)
    logits = draws.normal(np.array([-3.0, -2.0, -1.0, 0.5]), 1.5, (rows, len(LABELS)))
    targets = (draws.random(logits.shape) < expit(logits)).astype(np.float32)
    return logits, targets, draws.integers(1, 4, rows).astype(np.float64)


def f1(logits, targets, weights, threshold, metric: str) -> float:
    return compute(dataclasses.replace(TASK, threshold=threshold), logits, targets, weights)[metric]


@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_is_optimal_on_its_rows(seed: int):
    logits, targets, weights = made(60, seed)
    every = np.unique(expit(logits))
    found = empirical(TASK, logits, targets, weights, metric="micro_f1")
    assert isinstance(found, float)
    best = max(f1(logits, targets, weights, float(each), "micro_f1") for each in every)
    assert f1(logits, targets, weights, found, "micro_f1") >= best - 1e-12
    each_its_own = empirical(TASK, logits, targets, weights, metric="macro_f1")
    assert isinstance(each_its_own, tuple)
    assert f1(logits, targets, weights, each_its_own, "macro_f1") >= f1(logits, targets, weights, found, "macro_f1")


def test_the_expected_f1_equals_the_measured_one_on_many_rows():
    logits, targets, weights = made(40_000, 0)
    for metric in ("micro_f1", "macro_f1"):
        blind = expected(TASK, logits, weights, metric=metric)
        seen = empirical(TASK, logits, targets, weights, metric=metric)
        assert f1(logits, targets, weights, blind, metric) == pytest.approx(
            f1(logits, targets, weights, seen, metric), abs=2e-3
        )
        assert f1(logits, targets, weights, blind, metric) > f1(logits, targets, weights, 0.5, metric) + 0.01


def test_on_few_rows_expected_f1_chooses_better_thresholds():
    test = made(20_000, 99)
    gained = []
    for seed in range(20):
        logits, targets, weights = made(60, seed)
        blind = expected(TASK, logits, weights, metric="macro_f1")
        seen = empirical(TASK, logits, targets, weights, metric="macro_f1")
        gained.append(f1(*test, blind, "macro_f1") - f1(*test, seen, "macro_f1"))
    assert np.mean(gained) > 0


def test_rows_of_one_probability_get_the_label_together_and_weights_count_as_rows():
    logits = logit(np.array([[0.9], [0.4], [0.4], [0.1]]))
    one = Task("multi_label", ("a",), pair=False)
    targets = np.array([[1.0], [1.0], [0.0], [0.0]])
    assert empirical(one, logits, targets, np.ones(4), metric="micro_f1") == pytest.approx(0.25)
    weights = np.array([1.0, 2.0, 3.0, 1.0])
    repeated = np.repeat(logits, weights.astype(int), axis=0), np.repeat(targets, weights.astype(int), axis=0)
    for metric in ("micro_f1", "macro_f1"):
        assert empirical(one, logits, targets, weights, metric=metric) == empirical(
            one, *repeated, np.ones(7), metric=metric
        )
        assert expected(one, logits, weights, metric=metric) == expected(one, repeated[0], np.ones(7), metric=metric)


def test_without_f1_or_rows_the_threshold_is_one_half():
    logits, targets, weights = made(50, 0)
    for metric in ("subset_accuracy", "log_loss", "brier"):
        assert expected(TASK, logits, weights, metric=metric) == 0.5
        assert empirical(TASK, logits, targets, weights, metric=metric) == 0.5
    assert empirical(TASK, logits, np.zeros_like(targets), weights, metric="macro_f1") == (0.5,) * 4
    certain = expected(TASK, np.full((3, 4), 80.0), np.ones(3), metric="micro_f1")
    assert 0 < certain < 1
