"""Wherever a run is killed, the same command ends in the same bits."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nlp_transfer.errors import UserError
from nlp_transfer.machine.versions import environment
from nlp_transfer.objectives.objective import Step
from nlp_transfer.running import resume, run
from nlp_transfer.running.run import adapt
from nlp_transfer.settings import TrainingSettings
from nlp_transfer.training import checkpoint
from nlp_transfer.training.signals import catching_signals
from tests.crashes import fingerprint
from tests.encoder.families import tiny_encoder
from tests.harness import told_by
from tests.runs import data_for, settings_for
from tests.stopped import stopped_at_the_commit, stopped_run
from tests.training.scarce import no_memory
from tests.warm import Warm

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("case", "torn", "every"),
    [
        pytest.param("probe", True, 1, marks=pytest.mark.exhaustive),
        ("lora", True, 4),
        ("finetune", False, 16),
        pytest.param("probe", False, 1, marks=pytest.mark.exhaustive),
        pytest.param("lora", True, 1, marks=pytest.mark.exhaustive),
        pytest.param("finetune", False, 1, marks=pytest.mark.exhaustive),
        pytest.param("finetune", True, 1, marks=pytest.mark.exhaustive),
        pytest.param("lora", False, 1, marks=pytest.mark.exhaustive),
    ],
)
def test_every_crash_point_ends_in_the_same_bits(running: Warm, case: str, torn: bool, every: int):
    messages = told_by(running, "tests.crashes", case, "--every", str(every), *["--torn"] * torn)
    assert messages["failures"] == []
    assert messages["same"] == messages["tried"] >= messages["points"] // every > 4


RUN = """
import signal, sys
from pathlib import Path
from tests.runs import data_for, settings_for
from nlp_transfer.running.run import adapt
from nlp_transfer.training.signals import Stopped
settings = settings_for(Path(sys.argv[1]), output=sys.argv[2], **{"training.min_steps": int(sys.argv[3])})
try:
    adapt(settings, data=data_for("single_label"))
except Stopped as stopped:
    sys.exit(128 + stopped.number)
"""


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.exhaustive), signal.SIGUSR1]
)
def test_a_signal_writes_a_checkpoint_from_which_the_next_start_resumes(
    running: Warm, tmp_path: Path, number: signal.Signals
):
    tiny_encoder(tmp_path)
    steps = 60
    run = running.start(RUN, str(tmp_path), str(tmp_path / "runs"), str(steps))
    log = None
    while run.poll() is None and (log is None or not log.read_text().count("\n") > 3):  # it trains
        time.sleep(0.05)
        log = next((tmp_path / "runs").glob("*/metrics.jsonl"), None)
    run.send_signal(number)
    _, message = run.communicate(timeout=60)
    assert run.returncode == 128 + number, message
    assert "Traceback" not in message
    (folder,) = (tmp_path / "runs").iterdir()
    found = checkpoint.newest(folder / "checkpoints")
    assert found
    assert 0 < found.snapshot.step < steps
    assert not (folder / "metrics.json").exists()
    settings = settings_for(tmp_path, output=str(tmp_path / "runs"), **{"training.min_steps": steps})
    assert adapt(settings, data=data_for("single_label")).folder == folder
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, steps + 1))


@pytest.mark.parametrize("step", [2, 3])
def test_a_signal_during_any_commit_stops_the_run(tmp_path: Path, step: int):
    tiny_encoder(tmp_path)
    settings = settings_for(tmp_path, **{"training.max_steps": 3, "checkpoint.seconds": 0})
    with stopped_at_the_commit(step):
        adapt(settings, data=data_for("single_label"))
    assert steps_logged(adapt(settings, data=data_for("single_label")).folder) == [1, 2, 3]


def steps_logged(run: Path) -> list[int]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "loss" in line]


def test_a_named_checkpoint_of_another_run_is_refused_with_what_differs(tmp_path: Path):
    path, expected = stopped_run(tmp_path)
    other = expected | {"output": str(tmp_path / "other"), "resume": str(path)}
    for change, words in (
        ({"strategy.lr": 1e-3}, "strategy.lr was None, is 0.001"),
        ({"seed": 7}, "seed was 0, is 7"),
        ({"training.batch_size": 5}, "training.batch_size was .*, is 5"),
        ({"strategy": "lora"}, "strategy.name was 'finetune', is 'lora'"),
    ):
        with pytest.raises(UserError, match=words):
            adapt(settings_for(tmp_path, **other | change), data=data_for("single_label"))
    fewer = data_for("single_label") | {"test": data_for("single_label")["test"][:9]}
    with pytest.raises(UserError, match="the rows of the data changed"):
        adapt(settings_for(tmp_path, **other), data=fewer)
    longer = adapt(settings_for(tmp_path, **other | {"training.max_steps": 8}), data=data_for("single_label"))
    assert json.loads((longer.folder / "metrics.json").read_text())["steps"] == 8
    with pytest.raises(UserError, match="there is no checkpoint"):
        adapt(settings_for(tmp_path, **other | {"resume": str(tmp_path)}), data=data_for("single_label"))


@pytest.mark.parametrize("what", ["weights of the encoder", "versions.torch", "versions.peft"])
def test_other_weights_or_versions_do_not_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str):
    path, expected = stopped_run(tmp_path)
    if what == "weights of the encoder":
        tiny_encoder(tmp_path, initializer_range=0.5)
    else:
        version = what.partition(".")[2]
        monkeypatch.setattr(resume, "environment", lambda: environment() | {version: "0.0"})
    with pytest.raises(UserError, match=rf"{what} (changed|was '.*', is '0\.0')"):
        adapt(settings_for(tmp_path, **expected), data=data_for("single_label"))
    assert path.is_dir()


@pytest.mark.parametrize(
    ("given", "message"), [("nevr", "did you mean 'never'"), ("runs", "below it lies .*step-000003")]
)
def test_a_path_without_a_checkpoint_is_refused_with_a_hint(tmp_path: Path, monkeypatch, given: str, message: str):
    path, expected = stopped_run(tmp_path)
    monkeypatch.chdir(path.parent.parent.parent.parent)
    given = str(path.parent.parent) if given == "runs" else given
    with pytest.raises(UserError, match=message):
        adapt(settings_for(tmp_path, **expected | {"resume": given}), data=data_for("single_label"))


def test_a_disk_without_room_is_reported_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = torch.nn.Linear(1024, 1024, bias=False)  # 4 MiB; a checkpoint has four times that
    for free, warns in ((100, False), (20, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free << 20))
        assert bool(resume.check_room(tmp_path, model, TrainingSettings())) == warns
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3 << 20))
    with pytest.raises(UserError, match=r"3\.0 MiB free, the saved model takes 4\.0 MiB"):
        resume.check_room(tmp_path, model, TrainingSettings())


def test_a_second_signal_stops_at_once():
    message: list[str] = []

    def stopped_twice() -> None:
        with catching_signals(lambda: message.append("asked")) as asked:
            os.kill(os.getpid(), signal.SIGTERM)
            assert asked.number == signal.SIGTERM
            assert message == ["asked"]
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("still here")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            stopped_twice()
    finally:
        signal.signal(signal.SIGINT, before)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("later", [1.0, 60.0])
def test_a_signal_that_a_launcher_passes_on_is_one_request(monkeypatch: pytest.MonkeyPatch, later: float):
    ended: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    try:
        with catching_signals() as asked:
            os.kill(os.getpid(), signal.SIGTERM)
            now = time.monotonic()
            monkeypatch.setattr(time, "monotonic", lambda: now + later)
            os.kill(os.getpid(), signal.SIGTERM)
            assert asked.number == signal.SIGTERM
            assert ended == [signal.SIGTERM] * (later > 5)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_every_file_of_a_finished_run_may_be_read_as_the_umask_says(tmp_path: Path):
    tiny_encoder(tmp_path)
    settings = settings_for(tmp_path, output=str(tmp_path / "runs"), strategy="lora")
    run = adapt(settings, data=data_for("single_label"))
    (tmp_path / "plain").touch()
    expected = (tmp_path / "plain").stat().st_mode
    files = [path for path in run.folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert any("adapter" in str(path) for path in files)
    assert {path.name: path.stat().st_mode for path in files} == {path.name: expected for path in files}


def test_a_run_with_a_deleted_model_is_repeated(tmp_path: Path):
    tiny_encoder(tmp_path)
    settings = settings_for(tmp_path, output=str(tmp_path / "runs"), strategy="probe")
    run = adapt(settings, data=data_for("single_label"))
    shutil.rmtree(run.folder / "model")
    assert (adapt(settings, data=data_for("single_label")).folder / "model" / "model.safetensors").is_file()


def test_a_run_with_a_damaged_model_is_not_read_back(tmp_path: Path):
    tiny_encoder(tmp_path)
    settings = settings_for(tmp_path, output=str(tmp_path / "runs"), strategy="probe")
    model = adapt(settings, data=data_for("single_label")).folder / "model"
    for name in ("model.safetensors", "config.json", "nlp_transfer.json", "tokenizer_config.json"):
        path, content = model / name, (model / name).read_bytes()
        for damage in (None, content[: len(content) // 2], content[:-1] + b"\x7f"):
            if damage is None:
                path.unlink()
            elif name in ("model.safetensors", "nlp_transfer.json"):
                path.write_bytes(damage)
            else:  # what stands in these is told when the model is loaded
                continue
            with pytest.raises(UserError, match=rf"{name}.*overwrite=true repeats the run"):
                adapt(settings, data=data_for("single_label"))
            path.write_bytes(content)
    before = (model / "model.safetensors").stat().st_mtime_ns
    adapt(settings, data=data_for("single_label"))
    assert (model / "model.safetensors").stat().st_mtime_ns == before


def test_changed_rows_under_the_same_name_do_not_resume(tmp_path: Path):
    _, expected = stopped_run(tmp_path)
    rows = data_for("single_label")
    with pytest.raises(UserError, match=r"the rows of the data changed .*resume=never starts from"):
        adapt(settings_for(tmp_path, **expected), data=rows | {"train": rows["train"][::-1][:40]})
    run = adapt(settings_for(tmp_path, **expected | {"resume": "never"}), data=rows | {"train": rows["train"][:40]})
    assert json.loads((run.folder / "metrics.json").read_text())["steps"] == 6


def test_a_named_checkpoint_is_resumed_once(tmp_path: Path):
    path, expected = stopped_run(tmp_path)
    other = expected | {"output": str(tmp_path / "other"), "resume": str(path), "training.max_steps": 8}
    own, _ = stopped_run(tmp_path, at=6, **other)
    assert steps_logged(own.parent.parent) == [4, 5, 6]
    shutil.rmtree(path.parent)  # where it came from is not needed any more
    run = adapt(settings_for(tmp_path, **other), data=data_for("single_label"))
    assert steps_logged(run.folder) == [4, 5, 6, 7, 8]


def test_resuming_an_older_checkpoint_discards_later_ones(tmp_path: Path):
    path, expected = stopped_run(tmp_path)
    run = adapt(settings_for(tmp_path, **expected), data=data_for("single_label"))
    weights = (run.folder / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(run.folder)
    newest, _ = stopped_run(tmp_path, at=4)
    again, _ = stopped_run(tmp_path, at=4, resume=str(newest.with_name(path.name)))
    assert again == newest
    assert steps_logged(run.folder) == [1, 2, 3, 4]
    adapt(settings_for(tmp_path, **expected), data=data_for("single_label"))
    assert (run.folder / "model" / "model.safetensors").read_bytes() == weights


def test_a_damaged_checkpoint_does_not_count_as_kept(tmp_path: Path):
    path, expected = stopped_run(tmp_path)
    (path / "state.json").write_text("{")
    stopped_run(tmp_path, at=5)
    assert sorted(each.name for each in path.parent.iterdir()) == ["step-000004", "step-000005"]
    run = adapt(settings_for(tmp_path, **expected), data=data_for("single_label"))
    assert steps_logged(run.folder) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("task", ["regression", "multi_label"])
def test_scaled_regression_targets_resume(tmp_path: Path, task: str):
    path, expected = stopped_run(tmp_path, task=task)
    run = path.parent.parent
    adapt(settings_for(tmp_path, **expected), data=data_for(task))
    resumed = fingerprint(run.parent)
    shutil.rmtree(run)
    adapt(settings_for(tmp_path, **expected), data=data_for(task))
    assert fingerprint(run.parent) == resumed


def test_a_run_short_of_memory_resumes_with_smaller_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    forward, calls = Step.forward, []

    def scarce_once(self: Step, batch: dict, progress: float) -> torch.Tensor:
        calls.append(len(batch["targets"]))
        if len(calls) == 2 and calls[1] > 1:
            raise no_memory()
        return forward(self, batch, progress)

    monkeypatch.setattr(Step, "forward", scarce_once)
    path, expected = stopped_run(tmp_path)
    assert checkpoint.read(path).state["halved_to"] > 0
    run = adapt(settings_for(tmp_path, **expected), data=data_for("single_label"))
    resumed = fingerprint(run.folder.parent)
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "micro_batch_tokens" in line] == [2]
    shutil.rmtree(run.folder)
    calls.clear()
    adapt(settings_for(tmp_path, **expected), data=data_for("single_label"))
    assert fingerprint(run.folder.parent) == resumed


def test_a_folder_in_use_is_refused(tmp_path: Path):
    from filelock import FileLock

    path, expected = stopped_run(tmp_path)
    folder = path.parent.parent
    (folder / ".owner").write_text("process 1 on elsewhere")
    with FileLock(folder / ".lock"), pytest.raises(UserError, match="is being written by process 1 on elsewhere"):
        adapt(settings_for(tmp_path, **expected), data=data_for("single_label"))
    adapt(settings_for(tmp_path, **expected), data=data_for("single_label"))
    assert not (folder / "checkpoints").exists()


def test_a_run_finished_by_another_process_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tiny_encoder(tmp_path)
    settings, data = settings_for(tmp_path, strategy="probe"), data_for("single_label")
    prepared = run.prepare

    def meanwhile(*given, **named):
        monkeypatch.setattr(run, "prepare", prepared)
        written.append((adapt(settings, data=data).folder / "model/model.safetensors").stat())
        return prepared(*given, **named)

    written: list[os.stat_result] = []
    monkeypatch.setattr(run, "prepare", meanwhile)
    found = adapt(settings, data=data)
    now = (found.folder / "model/model.safetensors").stat()
    assert (now.st_ino, now.st_mtime_ns) == (written[0].st_ino, written[0].st_mtime_ns)
    assert found.report.to_json() == adapt(settings, data=data).report.to_json()


def test_rows_without_a_finite_loss_are_skipped_then_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tiny_encoder(tmp_path)
    forward, bad, steps = Step.forward, {2}, 18

    def sometimes_nan(self: Step, batch: dict, progress: float):
        return forward(self, batch, progress) * (math.nan if math.ceil(progress * steps) in bad else 1)

    monkeypatch.setattr(Step, "forward", sometimes_nan)
    run = adapt(settings_for(tmp_path, output=str(tmp_path / "once")), data=data_for("single_label"))
    result = json.loads((run.folder / "metrics.json").read_text())
    assert (result["steps"], result["skipped"]) == (steps, [2])
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line and line["loss"] is None] == [2]
    bad ^= {2, 3, 4, 5}
    with pytest.raises(UserError, match=r"3 steps in a row, last at step 5 over the rows 1-\d+, "):
        adapt(settings_for(tmp_path, output=str(tmp_path / "often")), data=data_for("single_label"))
