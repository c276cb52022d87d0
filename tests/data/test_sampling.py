"""Sampling of several tasks: hand-computed shares and properties of each method."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nlp_transfer.data.sampling import TaskOrder, shares, sharpness


@pytest.mark.parametrize(
    ("rows", "temperature", "expected"),
    [
        ([900, 100], 1, [900, 100]),
        ([900, 100], 2, [750, 250]),  # as 30 to 10
        ([810, 10, 180], math.inf, [334, 333, 333]),
        ([10_000, 1], 1, [10_000, 1]),
        ([7, 5, 3], 1, [7, 5, 3]),
        ([16, 81, 1], 4, [33, 49, 16]),  # as 2 to 3 to 1 of 98: 32.67, 49, 16.33
    ],
)
def test_shares_are_those_of_the_formula(rows: list[int], temperature: float, expected: list[int]):
    assert shares(rows, temperature) == expected


@given(
    rows=st.lists(st.integers(1, 10**7), min_size=1, max_size=12),
    temperature=st.floats(1, 50) | st.just(1.0) | st.just(math.inf),
)
@example(rows=[1] * 9, temperature=3.0)
@example(rows=[10**7, 1, 1, 1], temperature=1.0)
def test_shares_are_whole_numbers_beside_the_exact_ones(rows: list[int], temperature: float):
    expected = np.array(rows, float) ** (1 / temperature)
    exact = sum(rows) * expected / expected.sum()
    found = np.array(shares(rows, temperature))
    assert found.sum() == sum(rows)
    assert found.min() >= 1
    assert (np.abs(found - exact) < 1 + 1e-6).all()


def test_sampling_names_are_temperatures():
    assert sharpness("proportional", 5) == 1
    assert sharpness("uniform", 5) == math.inf
    assert sharpness("temperature", 5) == 5


@pytest.mark.parametrize("temperature", [1, 2, math.inf])
@pytest.mark.parametrize("rows", [[40, 7], [5, 5, 90], [1, 200]])
def test_every_sampling_has_its_properties(rows: list[int], temperature: float):
    total, first = sum(rows), np.cumsum([0, *rows])
    order = TaskOrder(rows, batch_size=8, seed=3, temperature=temperature)
    steps = -(-total // 8)
    drawn = np.concatenate([order.step(step) for step in range(3 * steps)])
    assert len(drawn) == 3 * total
    assert np.array_equal(drawn[:total], order.epoch(0))
    for task, (start, count) in enumerate(zip(first, rows, strict=False)):
        own = drawn[(drawn >= start) & (drawn < start + count)] - start
        assert len(own) == 3 * order.turns[task] > 0
        times = np.bincount(own, minlength=count)
        assert times.max() - times.min() <= 1  # none comes again before all of them came
    if temperature == 1:
        assert np.array_equal(np.sort(drawn[:total]), np.arange(total))


def test_an_order_is_a_function_of_the_seed_and_the_step():
    def of(seed: int) -> TaskOrder:
        return TaskOrder([30, 11], batch_size=4, seed=seed, temperature=2)

    one, other = of(0), of(0)
    later = other.step(17)
    assert np.array_equal([one.step(step) for step in range(18)][-1], later)
    assert not np.array_equal(of(1).epoch(0), of(0).epoch(0))
    assert not np.array_equal(of(0).epoch(1), of(0).epoch(0))
