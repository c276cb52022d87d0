"""Two processes: failures end both, one reports the reason, nothing is lost, and figures equal those of one process."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sklearn import metrics as sk

from nlp_transfer.cli import main
from nlp_transfer.training import checkpoint
from tests.crashes import fingerprint
from tests.exactness import BATCHES, ROWS
from tests.harness import HARNESS, told_by
from tests.launched import TORCHRUN, ended, ranks
from tests.place import adapt_words, furnish, run_of
from tests.ranks import AGAIN, CASES, words_of
from tests.warm import ROOT, Process, Warm

WITHIN = 15  # seconds from the failure of one to the end of all
SAID = {"refused": "this rank alone cannot go on", "broken": "this rank alone is broken"}


def check(messages: dict[str, Any]) -> None:
    """Check what is true of every way to fail."""
    way, _, failing = CASES[messages["case"]]
    assert messages["failed"]
    assert messages["seconds"] < WITHIN
    assert messages["left"] == []  # no process
    assert messages["same"]  # the same command went on to the bits of a run that never failed
    silent = {name for name, message in messages["said"].items() if not message}
    if way == "killed":
        assert silent == {"0", "1"}  # the launcher tells of it
        return
    assert silent == {"0", "1"} - {str(failing[0])}  # the error that the end of one causes in the other is not told
    who = f"nlp-transfer (process {failing[0]}): " if failing[0] else "nlp-transfer: "
    message = messages["said"][str(failing[0])]
    assert message.startswith(who)
    assert SAID[way] in message
    assert message.count("nlp-transfer") == 1 or way == "broken"


# Every way to fail, either rank, and with a checkpoint half written; one that fails in the training is below.
SOME = ("killed saving 0", "killed measuring 1", "refused training 1", "broken training 0")


@pytest.mark.parametrize(
    "cases",
    [
        pytest.param([*SOME], marks=pytest.mark.slow, id="some"),
        pytest.param([case for case in CASES if case not in SOME], marks=pytest.mark.exhaustive, id="the others"),
    ],
)
def test_wherever_one_of_two_fails_both_end_and_lose_nothing(running: Warm, cases: list[str]):
    done = running.run(HARNESS.format("tests.ranks"), *cases)
    assert done.returncode == 0, done.stderr[-3000:]
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["case"] for each in messages] == cases
    for each in messages:
        check(each)


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.exhaustive if at else pytest.mark.slow) for at, case in enumerate(AGAIN)],
)
def test_restarted_ranks_resume(running: Warm, case: str):
    done = running.run(HARNESS.format("tests.ranks"), case)
    assert done.returncode == 0, done.stderr[-3000:]
    messages = json.loads(done.stdout)
    assert not messages["failed"]
    assert messages["left"] == []
    assert messages["same"]  # as a run that never failed
    assert "resuming from" in messages["said"]["0"]


def children(pid: int) -> list[int]:
    """The processes that a process has started, and theirs."""
    try:
        own = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*own, *(each for child in own for each in children(child))]


def rank_of(pid: int) -> str | None:
    variables = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return next((value.removeprefix("RANK=") for value in variables if value.startswith("RANK=")), None)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes as Linux tells of them")
@pytest.mark.parametrize(
    "rank", [pytest.param("0", marks=pytest.mark.exhaustive), pytest.param("1", marks=pytest.mark.slow)]
)
def test_torchrun_ends_when_one_of_its_processes_is_killed(tmp_path: Path, rank: str):
    words = words_of(tmp_path, steps=100_000)
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    command = [*TORCHRUN, "2", "-m", "nlp_transfer", *words]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as running:
        wait_for_steps(tmp_path / "runs", running)
        family = children(running.pid)
        (victim,) = (pid for pid in family if rank_of(pid) == rank)
        os.kill(victim, signal.SIGKILL)
        started = time.monotonic()
        _, message = running.communicate(timeout=60)
    assert running.returncode == 1
    assert time.monotonic() - started < WITHIN
    assert not [pid for pid in family if Path("/proc", str(pid)).exists()]
    assert f"rank      : {rank} (local_rank: {rank})\n  exitcode  : -9" in message  # named as the cause
    assert "nlp_transfer/cli.py" not in message  # what the other one says of a connection that broke is not told


def other_text(folder: Path) -> list[str]:
    path = folder / "data" / "train.csv"
    path.write_text(path.read_text().replace("my", "your", 1))
    return []


def fewer_rows(folder: Path) -> list[str]:
    path = folder / "data" / "train.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:30]))
    return []


def other_weights(folder: Path) -> list[str]:
    path = folder / "tiny-bert" / "model.safetensors"
    save_file({name: values + 1 for name, values in load_file(path).items()}, path, {"format": "pt"})
    return []


def other_words(folder: Path) -> list[str]:
    return ["seed=1"]


ROWS_DIFFER, WEIGHTS_DIFFER = r"rows of the data \(\w{8} and \w{8}\)", r"weights of the encoder \(\w{8} and \w{8}\)"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param(other_text, ROWS_DIFFER, marks=pytest.mark.slow),
        pytest.param(fewer_rows, ROWS_DIFFER, marks=pytest.mark.exhaustive),
        pytest.param(other_weights, WEIGHTS_DIFFER, marks=pytest.mark.exhaustive),
        pytest.param(other_words, r"seed \(0 and 1\)", marks=pytest.mark.slow),
    ],
)
def test_processes_with_different_inputs_do_not_train(
    running: Warm, tmp_path: Path, given: Callable[[Path], list[str]], message: str
):
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
        furnish(folder)
    words = adapt_words(Path(), "training.max_steps=3", "strategy=finetune", f"output={tmp_path / 'runs'}")
    both = ranks(running, words, folders=folders, own=[[], given(folders[1])])
    statuses, errors = ended(both)
    assert statuses == [2, 2], errors
    for error in errors:  # a launcher ends the second before it says so
        assert re.search(f"processes 0 and 1 were given different runs: {message};", error)
        assert "Traceback" not in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("spoilt", ["a text", "fewer rows", "another model"])
def test_processes_with_different_inputs_do_not_predict(running: Warm, tmp_path: Path, spoilt: str):
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
        furnish(folder)
        seed = int(spoilt == "another model" and folder == folders[1])
        assert main(adapt_words(folder, f"seed={seed}")) == 0
        Path(run_of(folder)).rename(folder / "run")
    path = folders[1] / "data" / "test.csv"
    if spoilt != "another model":
        text = path.read_text().replace("my", "your", 1)
        path.write_text(text if spoilt == "a text" else "".join(text.splitlines(keepends=True)[:7]))
    rows, out = str(Path("data", "test.csv")), tmp_path / "out.csv"
    predict = ["predict", "run", rows, "predict.chunk_rows=3", f"predict.output={out}"]
    for words in (predict, ["evaluate", "run", "data=files", f"data.path={rows}", "evaluation.floors=false"]):
        statuses, errors = ended(ranks(running, words, folders=folders))
        assert statuses == [2, 2], errors
        for error in errors:
            assert "processes 0 and 1 were given different rows or models" in error
            assert "Traceback" not in error
    assert not out.exists()


STEPS = 24
STOPPED_WITHIN = 60  # seconds; as long as it takes where other processes take the cores
STOPS = {"the first": [0], "the second": [1], "both, as a launcher does": [0, 1]}


def wait_for_steps(output: Path, running: Process | subprocess.Popen[str]) -> None:
    while running.poll() is None and not any(log.read_text().count("\n") > 3 for log in output.rglob("metrics.jsonl")):
        time.sleep(0.02)


def steps_told(folder: Path) -> list[int]:
    """The steps whose loss the log of a run has."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def long_run(running: Warm, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path, dict[str, str]]:
    """A command of two processes, its output folder, and the result of an undisturbed run."""
    home = tmp_path_factory.mktemp("stopped")
    words = words_of(home, steps=STEPS)
    statuses, message = ended(ranks(running, words))
    assert statuses == [0, 0], message
    return words, home / "runs", fingerprint(home / "runs")


def check_one_commit(output: Path) -> None:
    """Check that a run was stopped midway, and that a checkpoint has the last reported step."""
    (folder,) = output.iterdir()
    (committed,) = (folder / "checkpoints").iterdir()
    step = checkpoint.read(committed).step
    assert steps_told(folder) == list(range(1, step + 1))
    assert 0 < step < STEPS
    assert not (folder / "metrics.json").exists()


@pytest.mark.parametrize(
    "who",
    [pytest.param(who, marks=pytest.mark.slow if len(STOPS[who]) > 1 else pytest.mark.exhaustive) for who in STOPS],
)
def test_a_signal_to_one_of_two_stops_both_after_the_same_step(
    running: Warm, long_run: tuple[list[str], Path, Any], who: str
):
    words, output, expected = long_run
    shutil.rmtree(output)
    both = ranks(running, words)
    wait_for_steps(output, both[0])
    for rank in STOPS[who]:
        both[rank].send_signal(signal.SIGTERM)
    statuses, message = ended(both, within=STOPPED_WITHIN)
    assert statuses == [128 + signal.SIGTERM] * 2, message
    assert "the same command continues from it" in message[0]
    assert not any("Traceback" in each for each in message)
    check_one_commit(output)
    statuses, message = ended(ranks(running, words))
    assert statuses == [0, 0], message
    assert "resuming from" in message[0]
    assert fingerprint(output) == expected


@pytest.mark.slow
def test_a_signal_to_torchrun_stops_both_after_the_same_step(running: Warm, long_run: tuple[list[str], Path, Any]):
    words, output, expected = long_run
    shutil.rmtree(output)
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    command = [*TORCHRUN, "2", "-m", "nlp_transfer", *words]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as launcher:
        wait_for_steps(output, launcher)
        family = children(launcher.pid)
        launcher.send_signal(signal.SIGTERM)
        _, message = launcher.communicate(timeout=STOPPED_WITHIN)
    assert launcher.returncode != 0
    assert "the same command continues from it" in message
    assert not [pid for pid in family if Path("/proc", str(pid)).exists()]
    check_one_commit(output)
    statuses, messages = ended(ranks(running, words))
    assert statuses == [0, 0], messages
    assert fingerprint(output) == expected


@pytest.fixture(scope="module")
def exact(running: Warm) -> dict[str, Any]:
    return told_by(running, "tests.exactness")


@pytest.mark.slow
def test_two_processes_find_the_figures_of_one_to_the_last_bit_and_they_are_scikit_learns(exact: dict[str, Any]):
    assert len(exact["figures"]) == len(ROWS) * len(BATCHES)
    for size, messages in exact["figures"].items():
        assert messages["same"], size
        alone, *ranks = messages["figures"]
        assert len(ranks) == 2
        assert all(_equal(rank, alone) for rank in ranks), size
        logits = np.array(messages["logits"])
        truth, decided = np.arange(len(logits)) % 3, logits.argmax(1)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        assert alone["accuracy"] == sk.accuracy_score(truth, decided), size
        assert alone["macro_f1"] == pytest.approx(sk.f1_score(truth, decided, average="macro")), size
        loss = sk.log_loss(truth, weights / weights.sum(1, keepdims=True), labels=[0, 1, 2])
        assert alone["log_loss"] == pytest.approx(loss, rel=1e-6), size


def _equal(first: dict[str, float], second: dict[str, float]) -> bool:
    """Whether two sets of figures are the same; what is undefined equals what is undefined."""
    return first.keys() == second.keys() and all(
        np.array_equal(first[name], second[name], equal_nan=True) for name in first
    )


@pytest.mark.slow
def test_fewer_rows_than_the_batch_size_or_ranks_are_enough(exact: dict[str, Any]):
    assert {name: messages["status"] for name, messages in exact["few"].items()} == dict.fromkeys(exact["few"], 0)
    for strategy in ("probe", "finetune"):
        (one,), (two,) = (exact["few"][f"{strategy} {processes}"]["report"] for processes in (1, 2))
        assert one["split"] == two["split"] == "test"
        if strategy == "probe":  # its bits depend on nothing else
            assert one == two


@pytest.mark.slow
def test_the_first_of_two_processes_alone_changes_files(exact: dict[str, Any]):
    for strategy in ("probe", "finetune"):
        one, two = (exact["few"][f"{strategy} {processes}"]["changed"] for processes in (1, 2))
        assert two == {"0": one["0"], "1": 0}
        assert one["0"] > 10
