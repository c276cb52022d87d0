"""Two processes: one run folder, one result, the figures of one process; a launcher that started too few is noticed."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import nlp_transfer
from nlp_transfer.cli import main
from nlp_transfer.machine import launch
from nlp_transfer.running.resume import starts_anew
from tests.encoder.families import tiny_encoder
from tests.launched import ended, launched, ranks
from tests.place import adapt_words, write_csv
from tests.runs import data_for, settings_for
from tests.warm import Warm


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tiny_encoder(tmp_path, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    (tmp_path / "data").mkdir()
    for split, part in data_for("single_label").items():
        write_csv(tmp_path / "data" / f"{split}.csv", part)
    return tmp_path


@pytest.mark.slow
def test_two_processes_are_one_run(place: Path, capfd: pytest.CaptureFixture[str]):
    words = [word for word in adapt_words(place) if not word.startswith(("strategy=", "output="))]
    words += ["strategy=finetune", "strategy.lr=1e-3", "encoder.head_dropout=0", "training.precision=fp32"]
    words += ["training.epochs=2", "tracking.trackers=[tensorboard]"]  # longer, and what rounding decides adds up
    assert main([*words, f"output={place / '1'}"]) == 0
    done = launched(2, [*words, f"output={place / '2'}"])
    assert done.returncode == 0, done.stderr[-3000:]
    results = {}
    for processes, printed in ((1, capfd.readouterr().out), (2, done.stdout)):
        lines = [line for line in printed.splitlines() if line]
        assert len(lines) == 1
        results[processes] = json.loads(lines[0])
        assert len(list((place / str(processes)).iterdir())) == 1
    plan = json.loads((Path(results[2]["folder"]) / "plan.json").read_text())
    assert plan["processes"] == 2
    one, two = (results[n]["report"]["rows"][0]["intervals"] for n in (1, 2))
    assert Path(results[1]["folder"]).name == Path(results[2]["folder"]).name
    assert one["accuracy"] == two["accuracy"]
    assert one["log_loss"]["value"] == pytest.approx(two["log_loss"]["value"], rel=1e-4)
    weights = [load_file(Path(results[n]["folder"]) / "model" / "model.safetensors") for n in (1, 2)]
    for name, values in weights[0].items():
        np.testing.assert_allclose(values, weights[1][name], rtol=1e-4, atol=1e-4, err_msg=name)
    steps = [json.loads(line) for line in (Path(results[2]["folder"]) / "metrics.jsonl").read_text().splitlines()]
    losses = [line["step"] for line in steps if "loss" in line]
    assert losses == sorted(set(losses))
    tracked = [sum(1 for _ in Path(results[n]["folder"]).rglob("events.out.tfevents.*")) for n in (1, 2)]
    assert tracked[0] == tracked[1] > 0  # by one process of the two
    assert nlp_transfer.load(results[2]["folder"]).predict(["good movie"])[0].probabilities


@pytest.mark.slow
def test_a_probe_of_two_processes_is_that_of_one_to_the_last_bit(running: Warm, place: Path, capfd):
    more = ("training.precision=fp32", "evaluation.batch_tokens=64", "cache.gib=0")  # passes for both, nothing kept
    more += ("decision.unknown=0.2", "decision.coverage=0.8", "decision.risk=0.4")
    assert main(adapt_words(place, *more, f"output={place / '1'}")) == 0
    statuses, message = ended(ranks(running, adapt_words(place, *more, f"output={place / '2'}")))
    assert statuses == [0, 0], message
    one, two = (next((place / str(processes)).iterdir()) for processes in (1, 2))
    assert json.loads((two / "plan.json").read_text())["processes"] == 2
    reports = [json.dumps(json.loads((run / "metrics.json").read_text())["report"]) for run in (one, two)]
    assert reports[0] == reports[1]
    for name in ("model.safetensors", "nlp_transfer.json"):
        assert (one / "model" / name).read_bytes() == (two / "model" / name).read_bytes()
    measured = ["evaluate", str(one), *more[1:2], "data=files", f"data.path={place / 'data' / 'test.csv'}"]
    capfd.readouterr()
    assert main(measured) == 0
    both = ranks(running, measured)
    statuses, message = ended(both)
    assert statuses == [0, 0], message
    assert [process.said("out") for process in both] == [capfd.readouterr().out, ""]


@pytest.mark.slow
def test_an_error_under_two_processes_is_reported_once_and_ends_soon():
    started = time.monotonic()
    done = launched(2, ["adapt", "training.epoch=1"])
    assert done.returncode != 0
    assert done.stderr.count("did you mean 'training.epochs'") == 1
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("resumes", "restarts", "anew"),
    [("auto", None, False), ("never", None, True), ("never", "0", True), ("never", "1", False), ("auto", "2", False)],
)
def test_a_restart_by_the_launcher_does_not_repeat_overwrite(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, resumes: str, restarts: str | None, anew: bool
):
    if restarts is not None:
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
    assert starts_anew(settings_for(tmp_path, resume=resumes)) == anew


@pytest.mark.parametrize(
    ("words", "world", "missing"),
    [
        (["python", "/bin/accelerate", "launch", "--cpu", "--num_processes", "2", "x.py"], "1", True),
        (["python", "/bin/accelerate", "launch", "--num_processes=2", "x.py"], "2", False),
        (["bash"], "1", False),
    ],
)
def test_too_few_started_processes_are_noticed(monkeypatch, words: list[str], world: str, missing: bool):
    monkeypatch.setattr(launch, "_parent_command", lambda: words)
    monkeypatch.setenv("WORLD_SIZE", world)
    assert (launch.missing_processes() is not None) == missing
