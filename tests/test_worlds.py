"""One process, two that hold the model each, two that share it out: the same training, or a sentence why not.

Where DeepSpeed is installed, it is one more way to share it out.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import pytest

from tests.harness import HARNESS
from tests.warm import Warm
from tests.worlds import CELLS, KEPT, OBJECTIVES, STEPS, WORLDS

SOME = (
    "probe classify",
    "finetune refined dann",
    "lora distill",
    "finetune contrast",
    "finetune anchor",
)
SOME += ("bf16, passes of three", "windows")
WITHIN = 1e-5  # of losses and probabilities, in float32
# What rounds otherwise, or ends in a solver that stops where the head is good enough.
LOOSE = {"bf16": 0.01, "bf16, passes of three": 0.01, "head last": 0.01}
# Their loss compares the texts of a forward pass with each other; two processes compare fewer.
COMPARING = ("contrast", "relations", "coral", "mmd", "mcc")
# What is refused where the ranks share the model out, and what the sentence names.
REFUSED = {"anchor": "objective.anchor"}
# What is refused in every world: terms that move an encoder which the strategy holds.
NOWHERE = {f"probe {objective}" for objective in OBJECTIVES if objective != "classify"}
NOWHERE |= {f"probe adamw {objective}" for objective in OBJECTIVES if objective not in ("classify", "distill")}
NOWHERE |= {f"{strategy} anchor" for strategy in ("lora", "lora top", "ia3")}
INSTEAD = "launch it without FSDP (`accelerate launch --multi_gpu`)"


def difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """How far two trainings lie apart in any loss, or in what their saved models answer."""
    found = [np.abs(np.subtract(one[what], other[what])).max(initial=0.0) for what in ("losses", "probabilities")]
    return float(np.max(found))  # which is nan if one of them is


def check(output: dict[str, Any]) -> None:
    """Check a cell of the matrix."""
    cell = output["cell"]
    one, ddp, fsdp, *deepspeed = (output[world] for world in WORLDS)
    assert ("refused" in one) == (cell in NOWHERE)
    if cell in NOWHERE:  # with the same words everywhere
        assert all(each == one for each in (ddp, fsdp, *deepspeed))
        return
    message = [words for name, words in REFUSED.items() if cell.endswith(name)]
    if message:
        assert message[0] in fsdp["refused"]
        assert INSTEAD in fsdp["refused"]
    worlds = [ddp, *deepspeed] if message else [ddp, fsdp, *deepspeed]
    trains = not cell.startswith("probe ") or cell.startswith("probe adamw")
    assert all(len(each["losses"]) == (STEPS if trains else 0) for each in (one, *worlds))
    if cell.startswith("finetune ") or cell == KEPT:
        assert [each["apart"] for each in (one, ddp)] == [[False], [False]]
        assert message or fsdp["apart"] == [cell != KEPT]
    within = LOOSE.get(cell, WITHIN)
    if not cell.endswith(COMPARING):
        assert all(difference(one, each) < within for each in worlds)
    assert all(difference(ddp, each) < within for each in worlds)


def cells(running: Warm, names: list[str]) -> list[dict[str, Any]]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = running.run(HARNESS.format("tests.worlds"), *names, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    output = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [each["cell"] for each in output] == names
    return output


@pytest.mark.parametrize(
    "names",
    [
        pytest.param([*SOME], marks=pytest.mark.slow, id="some"),
        pytest.param([name for name in CELLS if name not in SOME], marks=pytest.mark.exhaustive, id="the others"),
    ],
)
def test_every_strategy_and_objective_is_the_same_in_every_world(running: Warm, names: list[str]):
    for output in cells(running, names):
        check(output)
