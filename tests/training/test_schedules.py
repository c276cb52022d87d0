"""Learning-rate shapes: closed forms, bounds, and groups that wake later."""

import pytest

from nlp_transfer.training.schedules import SCHEDULES, rate

POINTS = [i / 200 for i in range(200)]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("wake", [0.0, 0.5])
def test_rates_stay_in_bounds_and_reach_the_peak(schedule: str, wake: float):
    rates = [rate(schedule, p, warmup=0.1, wake=wake) for p in POINTS]
    assert all(0 <= r <= 1 + 1e-9 for r in rates)
    assert max(rates) > 0.97
    assert all(r == 0 for p, r in zip(POINTS, rates, strict=True) if p < wake)
    assert all(r > 0 for p, r in zip(POINTS, rates, strict=True) if p > wake)


def test_closed_forms():
    assert rate("linear", 0.05, warmup=0.1) == pytest.approx(0.5)
    assert rate("linear", 0.55, warmup=0.1) == pytest.approx(0.5)
    assert rate("cosine", 0.5, warmup=0.0) == pytest.approx(0.5)
    assert rate("constant", 0.9, warmup=0.0) == 1
    assert rate("slanted_triangular", 0.1, warmup=0.5) == pytest.approx(1)
    assert rate("one_cycle", 0.0, warmup=0.5) == pytest.approx(1 / 25)
    assert rate("linear", 0.75, warmup=0.0, wake=0.5) == pytest.approx(0.5)
