"""The order of trials, and successive halving under a time budget."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nlp_transfer.comparing.grid import Trial
from nlp_transfer.comparing.schedule import Schedule, TrialResult

ROWS = {"8": 80, "64": 640, "all": 6400}
NAMES = ("steady", "rising", "poor", "worst")
SCORES = {"steady": (0.7, 0.75, 0.8), "rising": (0.3, 0.6, 0.9), "poor": (0.4, 0.41, 0.42), "worst": (0.2, 0.21, 0.22)}


def run(
    schedule: Schedule, *, seconds: Callable[[Trial], float] = lambda trial: ROWS[trial.labels] / 100
) -> list[Trial]:
    """Do the trials of a schedule at a clock that they move."""
    done = []
    clock = {"now": 0.0}
    if schedule.left is not None:
        whole = schedule.left()
        schedule.left = lambda: whole - clock["now"]
    for trial in schedule:
        done.append(trial)
        clock["now"] += 0 if schedule.is_kept(trial) else seconds(trial)
        score = SCORES.get(trial.name, (0, 0, 0))[list(ROWS).index(trial.labels)]
        schedule.done[trial] = TrialResult(score, seconds(trial))
    return done


def budgeted(seconds: float, **more) -> Schedule:
    return Schedule(
        NAMES, ["scratch"], list(ROWS), [0, 1], left=lambda: seconds, work=lambda trial: ROWS[trial.labels], **more
    )


def test_without_a_budget_all_label_counts_are_done_before_another_seed():
    schedule = Schedule(NAMES, ["scratch"], list(ROWS), [0, 1])
    done = run(schedule)
    assert sorted(done) == sorted(schedule.all)
    assert len(set(done)) == len(done) == 5 * 3 * 2
    assert [trial.seed for trial in done] == [0] * 15 + [1] * 15
    assert not schedule.left_out


def test_successive_halving_keeps_the_better_half_and_all_baselines():
    schedule = budgeted(1e9)
    done = run(schedule)
    with_all = {trial.name for trial in done if trial.labels == "all" and trial.seed == 0}
    assert with_all == {"steady", "rising", "scratch"}
    assert {trial.name for trial in done if trial.labels == "64"} == {*NAMES, "scratch"}
    assert set(done).isdisjoint(schedule.left_out)
    assert {*done, *schedule.left_out} == set(schedule.all)
    assert schedule.left_out[Trial("poor", "all", 0)].startswith("not among the best")
    assert Trial("poor", "64", 1) not in schedule.left_out
    assert not any(trial.name == "scratch" for trial in schedule.left_out)


@pytest.mark.parametrize("budget", [0.0, 1.0, 30.0, 100.0, 300.0])
def test_no_trial_is_started_that_would_exceed_the_budget(budget: float):
    schedule = budgeted(budget)
    done = run(schedule)
    seconds = {trial: ROWS[trial.labels] / 100 for trial in done}
    firsts = {next(trial for trial in done if trial.name == name) for name in {trial.name for trial in done}}
    assert sum(each for trial, each in seconds.items() if trial not in firsts) <= budget
    assert {*done, *schedule.left_out} == set(schedule.all)


def test_finished_trials_cost_no_budget():
    before = run(budgeted(100.0))
    again = run(budgeted(1e-9, is_kept=lambda trial: trial in before))
    assert again == before


def test_one_slow_trial_does_not_rule_out_later_ones():
    """The first trial of a probe computes what the others share; more rows give it hardly more to do."""
    schedule = Schedule(["probe"], [], list(ROWS), [0, 1], left=lambda: 130.0)
    assert len(run(schedule, seconds=lambda trial: 60.0 if trial == Trial("probe", "8", 0) else 0.5)) == 6


def test_ties_survive_halving():
    schedule = Schedule(["one", "other", "poor"], [], ["8", "64", "all"], [0], left=lambda: 1e9, tie=0.01)
    scores = {"one": 0.70541, "other": 0.70534, "poor": 0.3}
    for trial in schedule:
        schedule.done[trial] = TrialResult(scores[trial.name], 1.0)
    assert {each.name for each in schedule.done if each.labels == "all"} == {"one", "other"}
    assert set(schedule.left_out) == {Trial("poor", "all", 0)}
