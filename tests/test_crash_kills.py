"""A run that is killed repeatedly, also after resuming, ends in the same bits."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.crashes import fingerprint
from tests.encoder.families import tiny_encoder
from tests.harness import environment, told_by
from tests.warm import ROOT, Warm


@pytest.mark.parametrize(
    "case",
    [
        pytest.param("two", marks=pytest.mark.slow),
        *(pytest.param(case, marks=pytest.mark.exhaustive) for case in ("finetune", "lora")),
    ],
)
def test_many_kills_in_one_run_end_in_the_same_bits(running: Warm, case: str):
    messages = told_by(running, "tests.crashes", case, "--chain", "30")
    assert messages["failures"] == []
    assert messages["same"] == 1
    assert messages["points"] >= 10


# With two checkpoints, and with a saved model that was not measured.
@pytest.mark.parametrize(
    "after",
    [
        pytest.param(".making-step-000006", marks=pytest.mark.exhaustive),
        pytest.param(".making-metrics.json", marks=pytest.mark.exhaustive),
    ],
)
def test_every_kill_of_a_resumed_run_ends_in_the_same_bits(running: Warm, after: str):
    messages = told_by(running, "tests.crashes", "finetune", "--after", after)
    assert messages["failures"] == []
    assert messages["same"] == messages["tried"] == messages["points"] > 20


RUN = """
import sys
from pathlib import Path
from tests.runs import data_for, settings_for
from nlp_transfer.running.run import adapt
steps = {"training.max_steps": 100, "training.min_steps": 100, "checkpoint.seconds": 0, "evaluation.floors": False}
settings = settings_for(Path(sys.argv[1]), strategy="finetune", output=sys.argv[2], **steps)
print("imported", flush=True)
adapt(settings, data=data_for("single_label"))
"""


def started(home: Path, output: Path, *, seconds: float | None = None) -> tuple[int, float]:
    """Start the run, kill it so many seconds after it imported everything; return how it ended and after how long."""
    command = [sys.executable, "-W", "ignore", "-c", RUN, str(home), str(output)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as running:
        assert running.stdout
        assert running.stdout.readline() == "imported\n"
        since = time.monotonic()
        try:
            running.wait(seconds)
        except subprocess.TimeoutExpired:
            running.kill()
        return running.wait(), time.monotonic() - since


@pytest.mark.exhaustive
def test_kills_at_random_times_end_in_the_same_bits(tmp_path: Path):
    tiny_encoder(tmp_path)
    output, chooser = tmp_path / "runs", random.Random(0)
    ended, seconds = started(tmp_path, output)
    assert ended == 0
    expected = fingerprint(output)
    shutil.rmtree(output)
    # A sixth of the run at most: five kills then come before its end, however unsteady the machine.
    killed = [started(tmp_path, output, seconds=chooser.uniform(0, seconds / 6))[0] for _ in range(5)]
    assert killed == [-signal.SIGKILL] * 5
    assert started(tmp_path, output)[0] == 0
    assert fingerprint(output) == expected
    (folder,) = output.iterdir()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 101))
