"""Whole meta-learning runs on tiny encoders: their folders, their use, and resuming."""

import csv
import json
import os
import random
import re
import shlex
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from nlp_transfer.cli import main
from nlp_transfer.config import compose, run_id
from nlp_transfer.data.corpus import load_corpus
from nlp_transfer.errors import UserError
from nlp_transfer.meta import run as module
from nlp_transfer.meta.checks import check_meta
from nlp_transfer.meta.folder import MARK
from nlp_transfer.meta.methods import METHODS
from nlp_transfer.meta.rows import rows_of
from nlp_transfer.meta.run import MetaRun, meta_learn
from nlp_transfer.running.run import adapt
from nlp_transfer.settings import Settings
from nlp_transfer.terminal.console import Screen
from nlp_transfer.training import checkpoint
from nlp_transfer.training.signals import Stopped
from tests.composed import settings_of
from tests.encoder.families import WORDS, tiny_encoder
from tests.launched import printed_by
from tests.stopped import stopped_at_the_commit
from tests.warm import Warm

ROOT = Path(__file__).parents[2]
QUICK = {
    **{"meta.ways": 3, "meta.shots": 2, "meta.queries": 3, "meta.episodes": 9, "meta.batch": 2, "meta.measured": 20},
    **{"meta.inner_steps": 2, "meta.lr": 1e-3, "training.precision": "fp32", "data.test_share": 0.1},
}


def intents(classes: int = 10, each: int = 10) -> list[dict]:
    """Rows of classes that two words tell."""
    chooser = random.Random(0)
    pairs = chooser.sample([(one, other) for one in WORDS for other in WORDS if one < other], classes)
    rows = [
        {"text": f"{one} {chooser.choice(WORDS)} {other} {chooser.choice(WORDS)}", "label": f"intent-{number}"}
        for number, (one, other) in enumerate(pairs)
        for _ in range(each)
    ]
    chooser.shuffle(rows)
    return rows


def write_csv(path: Path, rows: list[dict]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("meta")
    tiny_encoder(folder)
    write_csv(folder / "intents.csv", intents())
    return folder


def settings_for(home: Path, output: Path, **values) -> Settings:
    own = {"data": "files", "data.path": str(home / "intents.csv"), "output": str(output)}
    own |= {"encoder": "custom", "encoder.name": str(home / "tiny-bert")}
    settings = settings_of(own | QUICK | values)
    check_meta(settings)
    return settings


def run_of(home: Path, output: Path, *, screen: Screen | None = None, **values) -> MetaRun:
    settings, screen = settings_for(home, output, **values), screen or Screen(quiet=True)
    return meta_learn(settings, *rows_of(settings, screen), screen)


def weights(run: MetaRun) -> dict[str, torch.Tensor]:
    return load_file(run.folder / "model" / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def words_of(home: Path, output: Path, *more: str) -> list[str]:
    own = [f"data.path={home / 'intents.csv'}", f"output={output}", f"encoder.name={home / 'tiny-bert'}"]
    return ["meta", "data=files", "encoder=custom", *own, *(f"{key}={value}" for key, value in QUICK.items()), *more]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_makes_an_encoder_and_reports_its_classes(home: Path, tmp_path: Path, method: str):
    run = run_of(home, tmp_path, **{"meta.method": method, "training.keep": "last"})
    assert run.folder.name.startswith(f"intents-{method}-")
    made = json.loads((run.folder / "model" / MARK).read_text())
    assert made["settings"]["method"] == method
    assert made["encoder"] == "tiny-bert"
    assert made["outcome"] == run.outcome.to_json()
    assert [gain.shots for gain in run.outcome.gains] == [1, 2]
    classes = run.outcome.classes
    assert sorted(label for part in classes.values() for label in part) == sorted(
        f"intent-{number}" for number in range(10)
    )
    assert [len(part) for part in classes.values()] == [5, 2, 3]
    before = load_file(home / "tiny-bert" / "model.safetensors")
    learned = weights(run)
    assert learned.keys() <= before.keys()
    assert any(not torch.equal(tensor, before[name]) for name, tensor in learned.items())
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5]
    assert not (run.folder / "checkpoints").exists()


def test_the_folder_is_loaded_as_an_encoder(home: Path, tmp_path: Path):
    run = run_of(home, tmp_path)
    model, info = AutoModel.from_pretrained(run.folder / "model", add_pooling_layer=False, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert AutoTokenizer.from_pretrained(run.folder / "model")("where is my card")["input_ids"]
    assert model.config.hidden_size == 32


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["probe", "finetune", "lora"])
def test_a_run_adapts_the_meta_learned_encoder(home: Path, tmp_path: Path, strategy: str):
    made = run_of(home, tmp_path / "made", **{"training.keep": "last"})
    values = {"encoder": "custom", "encoder.name": str(made.folder), "strategy": strategy, "training.max_steps": 1}
    values |= {"evaluation.resamples": 5, "evaluation.floors": False, "verify": False, "report.write": False}
    data = {"data": "files", "data.path": str(home / "intents.csv"), "output": str(tmp_path / "runs")}
    run = adapt(settings_of(data | values))
    record = json.loads((run.folder / "model" / "nlp_transfer.json").read_text())
    assert record["encoder"]["sha256"] == json.loads((made.folder / "model" / MARK).read_text())["sha256"]
    assert record["encoder"]["head"] == "pooled"  # as its vectors were compared
    if strategy == "probe":
        inside = {
            name.removeprefix("encoder."): tensor
            for name, tensor in load_file(run.folder / "model" / "model.safetensors").items()
        }
        assert all(torch.equal(inside[name], tensor) for name, tensor in weights(made).items())


def test_held_out_classes_are_not_trained_on(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    drawn = set()
    learn = METHODS["protonet"]

    def noting(learner, episode, settings):
        drawn.update(learner.columns.targets[episode.whole.rows].tolist())
        return learn(learner, episode, settings)

    monkeypatch.setitem(METHODS, "protonet", noting)
    run = run_of(home, tmp_path)
    labels = load_corpus(settings_for(home, tmp_path).data).task.labels
    assert {labels[each] for each in drawn} <= set(run.outcome.classes["train"])


def test_weights_without_improvement_are_not_kept(home: Path, tmp_path: Path):
    run = run_of(home, tmp_path, **{"meta.lr": 1e-12, "meta.episodes": 2})
    assert run.outcome.gains[0].paired.value == pytest.approx(0, abs=1e-6)
    assert "helped" not in run.outcome.verdict.replace("no evidence that it helped", "")
    without = run_of(home, tmp_path, **{"meta.validation": 0, "meta.episodes": 2})
    assert without.outcome.kept_step == 1
    assert without.outcome.classes["validation"] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "number"),
    [
        ("protonet", signal.SIGTERM),
        *(pytest.param(each, None, marks=[pytest.mark.exhaustive] * (each == "reptile")) for each in METHODS),
    ],  # None: killed on the spot
)
def test_a_stopped_run_resumes_to_the_same_bits(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, number: int | None
):
    values = {"meta.method": method, "cache.gib": 0, "checkpoint.seconds": 0}
    plain = run_of(home, tmp_path / "plain", **values)
    learn, seen = METHODS[method], []

    def stopping(*given):
        seen.append(given)
        if len(seen) == 5:  # the first episode of the third step
            if number is None:
                raise KeyboardInterrupt
            os.kill(os.getpid(), number)
        return learn(*given)

    with monkeypatch.context() as patch:
        patch.setitem(METHODS, method, stopping)
        with pytest.raises(Stopped if number else KeyboardInterrupt):
            run_of(home, tmp_path / "parts", **values)
    (folder,) = (tmp_path / "parts").iterdir()
    found = checkpoint.newest(folder / "checkpoints")
    assert found is not None
    assert found.snapshot.step == (3 if number else 2)
    messages: list[str] = []
    resumed = run_of(home, tmp_path / "parts", screen=Screen(quiet=False, on_message=messages.append), **values)
    assert any("resuming from" in sentence for sentence in messages)
    assert same(weights(plain), weights(resumed))
    assert plain.outcome.gains == resumed.outcome.gains
    lines = (plain.folder / "metrics.jsonl").read_text(), (resumed.folder / "metrics.jsonl").read_text()
    assert lines[0] == lines[1]
    assert {path.name for path in plain.folder.iterdir()} == {path.name for path in resumed.folder.iterdir()}


@pytest.mark.slow
def test_a_signal_during_the_last_commit_stops_the_run(home: Path, tmp_path: Path):
    with stopped_at_the_commit(5):
        run_of(home, tmp_path, **{"checkpoint.seconds": 0})
    assert not list(tmp_path.rglob("metrics.json"))


def test_a_finished_run_is_read_back(home: Path, tmp_path: Path):
    own = {"data.path": str(shutil.copy(home / "intents.csv", tmp_path))}
    run = run_of(home, tmp_path / "runs", **own)
    written = (run.folder / "metrics.json").stat().st_mtime_ns
    assert run_of(home, tmp_path / "runs", **own) == run
    assert (run.folder / "metrics.json").stat().st_mtime_ns == written
    settings = compose(str(run.folder / "config.yaml"))  # a rerun of what it says is the same run
    check_meta(settings)
    silent = Screen(quiet=True)
    assert meta_learn(settings, *rows_of(settings, silent), silent) == run
    plan = json.loads((run.folder / "plan.json").read_text())
    assert (plan["steps"], plan["groups"][0]["lr"]) == (5, 1e-3)
    metrics = run.folder / "metrics.json"
    figures = json.loads(metrics.read_text())
    for damage in (
        {"report": {}},
        {"report": None},
        {"report": {**figures["report"], "gains": [{"shots": 1, "before": 2}]}},
    ):
        metrics.write_text(json.dumps(figures | damage))
        with pytest.raises(UserError, match=r"metrics\.json holds no report .*overwrite=true repeats the run"):
            run_of(home, tmp_path / "runs", **own)
    metrics.write_text(json.dumps(figures))
    saved = run.folder / "model" / "model.safetensors"
    whole = saved.read_bytes()
    for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-4], None):
        saved.unlink() if damaged is None else saved.write_bytes(damaged)
        with pytest.raises(
            UserError, match=r"(what was saved|no model\.safetensors).*; overwrite=true repeats the run"
        ):
            run_of(home, tmp_path / "runs", **own)
    saved.write_bytes(whole)
    write_csv(tmp_path / "intents.csv", intents(each=11))
    with pytest.raises(UserError, match="other data than"):
        run_of(home, tmp_path / "runs", **own)


def test_a_run_finished_by_another_process_is_read_back(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    prepared, ended = module.prepare, []

    def meanwhile(*given, **named):
        monkeypatch.setattr(module, "prepare", prepared)
        ended.append(run_of(home, tmp_path))
        return prepared(*given, **named)

    monkeypatch.setattr(module, "prepare", meanwhile)
    assert run_of(home, tmp_path) == ended[0]


def test_meta_settings_do_not_change_other_runs():
    assert run_id(compose(None, ["meta.ways=3"])) == run_id(compose())


def test_the_command_line_prints_the_verdict(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert main(words_of(home, tmp_path)) == 0
    found = json.loads(capfd.readouterr().out)
    assert Path(found["model"]).is_dir()
    assert {"gains", "verdict", "classes", "kept_step"} <= found.keys()
    assert main(["rank", found["folder"], "data=files", f"data.path={home / 'intents.csv'}"]) == 0
    ranked = json.loads(capfd.readouterr().out)["ranking"][0]
    assert ranked["sha256"] == json.loads((Path(found["model"]) / MARK).read_text())["sha256"]


def test_the_recipe_runs_as_its_header_says(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    header = (ROOT / "recipes" / "new_classes.yaml").read_text(encoding="utf-8").split("defaults:")[0]
    (command,) = re.findall(r"^#   nlp-transfer (meta new_classes .*)$", header, re.MULTILINE)
    own = [word for word in words_of(home, tmp_path)[1:] if not word.startswith(("data", "meta.method"))]
    given = [word for word in shlex.split(command) if not word.startswith("data.path=")]
    assert main([*given, f"data.path={home / 'intents.csv'}", *own]) == 0
    assert Path(json.loads(capfd.readouterr().out)["folder"]).name.startswith("new_classes-")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["meta.method=maml"], "meta.method='maml' is not known"),
        (["meta.distance=manhattan"], "meta.distance='manhattan' is not known"),
        (["meta.ways=1"], "meta.ways=1 must be at least 2"),
        (["meta.shots=0"], "meta.shots=0 must be at least 1"),
        (["meta.inner_lr=0"], "meta.inner_lr=0"),
        (["meta.held_out=1"], "meta.held_out=1"),
        (["meta.validation=1"], "meta.validation=1"),
        (["meta.ways=6"], "meta.ways=6: 10 classes with at least 5 rows"),
        (
            ["meta.queries=20"],
            "meta.ways=3: 0 classes with at least 22 rows (meta.shots + meta.queries) (10 classes more",
        ),
        (["strategy=lora"], "strategy=lora: meta does not use this key"),
        (["objective=coral"], "objective=coral: meta does not use this key"),
        (["training.epochs=3"], "training.epochs=3: meta does not use this key"),
        (["encoder.head=native"], "encoder.head=native"),
        (["encoder.layers=all"], "encoder.layers=all"),
        (["encoder.hidden=8"], "encoder.hidden=8"),
        (["training.precision=fp16"], "training.precision=fp16"),
        (["data.label_texts=['{}']"], "data.label_texts is for a run of one task"),
        (["data.class_weights=balanced"], "meta does not support weights of rows"),
        (
            ["data.problem=multi_label", "data.label_separator=|"],
            "meta needs texts of one class each, and this is multi_label",
        ),
    ],
)
def test_impossible_settings_are_refused(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], words, message):
    if words == ["data.class_weights=balanced"]:
        write_csv(tmp_path / "uneven.csv", intents() + [{"text": "my card", "label": "intent-0"}] * 3)
        words = [*words, f"data.path={tmp_path / 'uneven.csv'}"]
    given = words_of(home, tmp_path / "runs")
    replaced = {word.partition("=")[0] for word in words}
    assert main([*(word for word in given if word.partition("=")[0] not in replaced), *words]) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("continual: {replay: 50}", "continual is for a model of one task"),
        ("continual: {labels: all}", "continual is for a model of one task"),
        ("training: {patience: 3}", "training.patience=3: meta does not use this key"),
        ("training: {batch_size: 4}", "training.batch_size=4: meta does not use this key"),
    ],
)
def test_keys_that_meta_does_not_use_are_refused(home: Path, tmp_path: Path, capfd, asked: str, message: str):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"defaults: [config, override data: files, _self_]\n{asked}\n")
    given = [word for word in words_of(home, tmp_path / "runs") if word not in ("meta", "data=files")]
    assert main(["meta", str(recipe), *given]) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"text": f"a {number}", "text_pair": "b", "label": f"{number % 8}x"} for number in range(80)],
            "these are pairs",
        ),
        ([{"text": f"a {number}", "label": number + 0.5} for number in range(80)], "this is regression"),
    ],
)
def test_rows_of_another_kind_are_refused(home: Path, tmp_path: Path, rows: list[dict], message: str):
    write_csv(tmp_path / "rows.csv", rows)
    with pytest.raises(UserError, match=message):
        run_of(home, tmp_path / "runs", **{"data.path": str(tmp_path / "rows.csv")})


def test_an_encoder_with_a_decoder_is_refused(home: Path, tmp_path: Path):
    with pytest.raises(UserError, match="has a decoder; meta supports"):
        run_of(home, tmp_path / "runs", **{"encoder.name": str(tiny_encoder(tmp_path, "t5"))})
    assert not (tmp_path / "runs").exists()


def test_a_training_that_diverges_says_what_to_change(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(METHODS, "protonet", lambda *given: METHODS["fomaml"](*given) * float("nan"))
    with pytest.raises(UserError, match=r"3 steps in a row, last at step 3: lower meta\.lr"):
        run_of(home, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [pytest.param(method, marks=[pytest.mark.exhaustive] * (method != "fomaml")) for method in METHODS]
)
def test_two_processes_train_the_same_model_as_one(running: Warm, tmp_path: Path, method: str):
    tiny_encoder(tmp_path)
    write_csv(tmp_path / "intents.csv", intents())
    found = []
    for processes in (1, 2):
        words = words_of(tmp_path, tmp_path / str(processes), f"meta.method={method}", "training.keep=last")
        # Two episodes a step, and a last one with none for the second process.
        out = printed_by(running, words, processes=processes)
        (run,) = (tmp_path / str(processes)).iterdir()
        found.append((load_file(run / "model" / "model.safetensors"), json.loads(out)))
    for name, tensor in found[0][0].items():
        np.testing.assert_array_equal(tensor, found[1][0][name], err_msg=name)
    assert found[0][1]["gains"] == found[1][1]["gains"]
