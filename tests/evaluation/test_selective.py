"""Guaranteed risks hold with their confidence, and risk curves count correctly."""

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from nlp_transfer.data.task import NEVER
from nlp_transfer.evaluation.selective import CONFIDENCE, RiskCurve, min_risk, min_rows

ROWS = st.lists(
    st.tuples(st.floats(0, 1) | st.sampled_from([0.25, 0.5, 0.9, 1 - 1e-9, 1.0]), st.booleans()),
    min_size=1,
    max_size=150,
)
RISKS = st.floats(1e-3, 0.999)
GIVEN = {"least": [0.9, 0.5, 0.0], "answered": [4, 8, 9], "wrong": [0, 1, 2]}


def curve_of(rows: list[tuple[float, bool]]) -> RiskCurve:
    sure, wrong = zip(*rows, strict=True)
    return RiskCurve.of(np.array(sure), np.array(wrong))


@given(ROWS)
def test_the_curve_counts_the_most_confident_twentieths(rows: list[tuple[float, bool]]) -> None:
    curve = curve_of(rows)
    for least, answered, wrong in zip(curve.least, curve.answered, curve.wrong, strict=True):
        assert answered == sum(sure >= least for sure, _ in rows)
        assert wrong == sum(is_wrong for sure, is_wrong in rows if sure >= least)
    assert len(curve.least) == len(set(curve.least)) <= 20
    assert (curve.least[-1], curve.rows) == (0.0, len(rows))
    ordered = sorted((sure for sure, _ in rows), reverse=True)
    for part in range(1, 21):  # each share is answered as closely as the rows, and six digits, tell them apart
        rank = math.ceil(len(rows) * part / 20)
        reached = sum(sure >= ordered[rank - 1] for sure in ordered)
        alike = sum(sure > ordered[rank - 1] - 2e-6 for sure in ordered)
        assert any(reached <= answered <= alike for answered in curve.answered)


@given(ROWS, RISKS, RISKS)
def test_a_higher_risk_never_answers_less(rows: list[tuple[float, bool]], one: float, other: float) -> None:
    curve, low, high = curve_of(rows), *sorted([one, other])
    assert curve.threshold(high) <= curve.threshold(low)
    chosen = curve.threshold(low)
    for least, answered, wrong in zip(curve.least, curve.answered, curve.wrong, strict=True):
        chance = binom.cdf(wrong, answered, low)  # of so few mistakes, or fewer, where they are as many as that
        if least < chosen and wrong < answered:
            assert chance > 0.05 / 20 * (1 - 1e-6)
        if least == chosen:
            assert chance < 0.05 / 20 * (1 + 1e-6)
    assert curve.threshold(curve.min_risk()) < NEVER or curve.min_risk() == 1
    assert curve.threshold(curve.min_risk() * (1 - 1e-9)) == NEVER
    assert min_risk(curve.rows) <= curve.min_risk() * (1 + 1e-9)


@given(ROWS)
def test_a_curve_is_read_back_as_it_was_written(rows: list[tuple[float, bool]]) -> None:
    curve = curve_of(rows)
    assert RiskCurve.from_json(json.loads(json.dumps(curve.to_json()))) == curve


@pytest.mark.parametrize(
    "broken",
    [
        *({"least": each} for each in ([0.9, 0.5], [0.5, 0.9, 0.0], [0.9, 0.9, 0.0], [0.9, 0.5, 0.1], [1.5, 0.5, 0.0])),
        *({"least": each} for each in ([0.9, 0.5, 0], ["0.9", 0.5, 0.0], [math.nan, 0.5, 0.0], None, {}, [])),
        *({"answered": each} for each in ([4, 3, 9], [0, 8, 9], [4.0, 8, 9], [True, 8, 9], [4, 8], "489")),
        *({"wrong": each} for each in ([0, 2, 1], [-1, 1, 2], [5, 5, 5], [0, 1, 3], [0, 5, 5], [0, 1.0, 2])),
        {"least": [*np.linspace(1, 0, 21)], "answered": [1] * 21, "wrong": [0] * 21},
    ],
    ids=str,
)
def test_damaged_curves_are_refused(broken: dict[str, object]) -> None:
    RiskCurve.from_json(GIVEN)
    with pytest.raises((KeyError, TypeError, ValueError)):
        RiskCurve.from_json(GIVEN | broken)
    for key in broken:
        with pytest.raises(KeyError):
            RiskCurve.from_json({name: value for name, value in GIVEN.items() if name != key})


def test_the_bound_agrees_with_an_independent_computation() -> None:
    curve = RiskCurve.from_json({"least": [0.9, 0.0], "answered": [300, 400], "wrong": [3, 60]})
    high = binomtest(3, 300).proportion_ci(1 - 2 * 0.05 / 20).high  # whose upper side has half of the doubt
    assert curve.min_risk() == pytest.approx(high)
    assert [curve.threshold(each) for each in (high * 0.999, high * 1.001, 0.25)] == [NEVER, 0.9, 0.0]
    hopeless = RiskCurve.from_json({"least": [0.0], "answered": [3], "wrong": [3]})
    assert (hopeless.min_risk(), hopeless.threshold(0.99)) == (1.0, NEVER)


@pytest.mark.parametrize("risk", [0.001, 0.01, 0.05, 0.1, 0.3, 0.9])
def test_the_minimum_number_of_rows_for_a_risk_is_exact(risk: float) -> None:
    rows = min_rows(risk)
    for count, enough in ((rows, True), (rows - 1, False)):
        if count:
            right = RiskCurve.of(np.linspace(0.5, 1, count), np.zeros(count, bool))
            assert (right.threshold(risk) == 0) == enough
            assert (min_risk(count) <= risk) == enough
            assert right.min_risk() == pytest.approx(min_risk(count))


# How sure, and how often wrong where so sure; and how often wrong beyond a threshold.
Law = tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray], Callable[[float], float]]
LAWS: dict[str, Law] = {
    "calibrated": (lambda u: 0.3 + 0.7 * u, lambda p: 1 - p, lambda t: (1 - max(t, 0.3)) / 2),
    "too sure": (lambda u: 0.7 + 0.3 * u, lambda p: 2 * (1 - p), lambda t: 1 - max(t, 0.7)),
    "sureness says nothing": (lambda u: u, lambda p: np.full_like(p, 0.11), lambda t: 0.11),
    "surer is worse": (lambda u: u, lambda p: 0.101 + 0.02 * p, lambda t: 0.101 + 0.01 * (1 + t)),
    "two values": (lambda u: np.where(u < 0.5, 0.6, 0.9), lambda p: 0.7 - p * 2 / 3, lambda t: 0.1 if t > 0.6 else 0.2),
    "two values, too many": (
        lambda u: np.where(u < 0.5, 0.6, 0.9),
        lambda p: np.where(p > 0.7, 0.105, 0.4),
        lambda t: 0.105 if t > 0.6 else 0.2525,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
def test_the_guaranteed_risk_holds_with_its_confidence(law: str) -> None:
    sureness, mistakes, risk_beyond = LAWS[law]
    chooser, broken, risk, draws = np.random.default_rng(0), 0, 0.1, 400
    for _ in range(draws):
        sure = sureness(chooser.random(300))
        threshold = RiskCurve.of(sure, chooser.random(300) < mistakes(sure)).threshold(risk)
        broken += threshold < NEVER and risk_beyond(threshold) > risk
    assert broken <= binom.ppf(0.999, draws, 1 - CONFIDENCE)


@pytest.mark.parametrize(("risk", "least", "most"), [(0.08, 0.99, 1), (0.05, 0.75, 1), (0.035, 0.3, 0.95)])
def test_a_good_model_answers_most_rows(risk: float, least: float, most: float) -> None:
    """It is wrong in 3 % of all rows, and the surer it is the less."""
    chooser, answered = np.random.default_rng(0), []
    for _ in range(200):
        sure = 1 - 0.06 * chooser.random(1000)
        curve = RiskCurve.of(sure, chooser.random(1000) < 1 - sure)
        answered.append(np.mean(sure >= curve.threshold(risk)))
    assert least <= np.mean(answered) <= most
