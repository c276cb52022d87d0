"""A run of two processes: killed anywhere it ends in the same bits, and it may go on on another number of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.crash_worlds import COMMITTED, RUNS
from tests.crashes import STEPS
from tests.test_crashes import told_by
from tests.warm import Warm


@pytest.fixture(scope="module")
def told(running: Warm) -> dict[str, dict[str, Any]]:
    return told_by(running, "tests.crash_worlds")


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_a_run_may_go_on_on_another_number_of_processes(told: dict[str, dict[str, Any]], run: str):
    first, last = RUNS[run][0], RUNS[run][-1]
    assert told[run]["processes"] == [first] * COMMITTED + [last] * (STEPS - COMMITTED)
    assert sum(map(len, told["1"]["examples"].values())) == STEPS * 8
    assert told[run]["examples"] == told["1"]["examples"]
    assert told[run]["difference"] < 1e-5


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["--every", "7", "--torn"], marks=pytest.mark.slow),
        pytest.param(["--every", "6"], marks=pytest.mark.exhaustive),
        pytest.param(["--every", "4", "--torn"], marks=pytest.mark.exhaustive),
    ],
    ids=json.dumps,
)
def test_two_processes_end_in_the_same_bits_wherever_they_are_killed(running: Warm, words: list[str]):
    found = told_by(running, "tests.crashes", "two", *words)
    assert found["failures"] == []
    assert found["same"] == found["tried"] > 3
