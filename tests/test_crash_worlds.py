"""A run of two processes, killed anywhere, ends in the same bits and resumes in another world."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.crash_worlds import COMMITTED, RUNS
from tests.crashes import STEPS
from tests.harness import told_by
from tests.warm import Warm
from tests.worlds import WORLDS


@pytest.fixture(scope="module")
def told(running: Warm) -> dict[str, dict[str, Any]]:
    return told_by(running, "tests.crash_worlds")


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS, ids=" then ".join)
def test_a_run_resumes_with_other_numbers_of_processes_and_sharding(told: dict[str, Any], run: list[str]):
    first, last = (WORLDS[world][0] for world in (run[0], run[-1]))
    found = told[" then ".join(run)]
    assert found["processes"] == [first] * COMMITTED + [last] * (STEPS - COMMITTED)
    assert sum(map(len, told["one"]["examples"].values())) == STEPS * 8
    assert found["examples"] == told["one"]["examples"]
    assert found["difference"] < 1e-5


@pytest.mark.slow
def test_a_killed_sharded_run_ends_in_the_same_bits(told: dict[str, Any]):
    for world in WORLDS.keys() & {"fsdp", "deepspeed"}:
        assert told[f"{world} then {world}"]["bits"] == told[world]["bits"]


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
