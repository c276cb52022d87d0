"""What a pretraining leaves in the folder of its run, for how long, and what is done with such a run afterwards."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import nlp_transfer
from nlp_transfer.artefact.merge import merge
from nlp_transfer.artefact.record import read_record
from nlp_transfer.cache.store import folder_of
from nlp_transfer.cli import main
from nlp_transfer.config import compose
from nlp_transfer.errors import UserError
from nlp_transfer.pretraining import further
from nlp_transfer.pretraining.folder import ENCODER
from nlp_transfer.pretraining.masked import MaskedStep
from nlp_transfer.publishing.publication import parcel_of
from nlp_transfer.running import auxiliary, resume
from nlp_transfer.running.auxiliary import teacher_columns
from nlp_transfer.running.run import adapt
from nlp_transfer.settings import TrainingSettings
from nlp_transfer.training import checkpoint
from nlp_transfer.verb_settings import HubSettings
from tests.pretraining.made import FIRST, run_of_them, same, weights
from tests.runs import STRATEGIES, data_for


def test_space_of_old_checkpoints_counts_as_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = torch.nn.Linear(1024, 1024, bias=False)  # 4 MiB; a checkpoint has four times that
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=20 << 20))
    place, other = tmp_path / further.CHECKPOINTS, tmp_path / "checkpoints"
    (place / "step-000001").mkdir(parents=True)
    with (place / "step-000001" / "tensors.safetensors").open("wb") as stream:
        stream.truncate(50 << 20)
    assert resume.check_room(place, model, TrainingSettings()) is None
    message = resume.check_room(other, model, TrainingSettings())
    assert message is not None
    assert f"{tmp_path} lies on a disk with 20.0 MiB free" in message


@pytest.mark.slow
def test_a_run_on_texts_without_labels_is_measured_again(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for split, part in data_for("single_label").items():
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, part)))
    (tmp_path / "more.csv").write_text("text\none\ntwo\nthree\n")
    words = [
        "data=files",
        f"data.path={tmp_path}",
        f"data.unlabelled={tmp_path / 'more.csv'}",
        f"encoder={home / 'tiny-bert'}",
    ]
    words += [f"{key}={str(value).lower()}" for key, value in FIRST.items()]
    words += ["pretraining.texts=unlabelled", "report.write=false", "verify=false", f"output={tmp_path / 'runs'}"]
    run = adapt(compose(None, words))
    capsys.readouterr()
    assert main(["evaluate", str(run.folder)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["report"]["rows"][0]["intervals"] == run.report.to_json()["rows"][0]["intervals"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "merged"),
    [
        (STRATEGIES["lora"], True),
        (STRATEGIES["lora"] | {"strategy.merge": False}, False),
        ({"strategy": "adapter", "strategy.peft_type": "PROMPT_TUNING"}, False),  # which PEFT cannot merge
    ],
)
def test_an_adapter_works_after_its_run_is_moved(home: Path, tmp_path: Path, values: dict, merged: bool):
    run = run_of_them(home, tmp_path, **values | FIRST)
    record = read_record(run.folder / "model")
    assert record.merged is merged
    pushed = HubSettings(repository="a/b", layout="adapter")
    with pytest.raises(UserError, match=r"its encoder .* after its pretraining is not on the Hub"):
        parcel_of(run.folder, pushed, tell=lambda _: None).__enter__()
    assert (
        "to be put on its encoder after its pretraining" in (run.folder / "model" / "README.md").read_text()
    ) or merged
    assert (run.folder / ENCODER).is_dir() is not merged  # for good, whatever becomes of the cache
    shutil.rmtree(folder_of(None))
    texts = [row["text"] for row in data_for("single_label")["test"]]
    answers = nlp_transfer.load(run.folder).predict(texts)
    right = sum(a.label == row["label"] for a, row in zip(answers, data_for("single_label")["test"], strict=True))
    assert right / len(texts) == pytest.approx(run.metrics["accuracy"])
    if not merged:
        assert record.encoder.name == str((run.folder / ENCODER).resolve())
    moved = run.folder.rename(tmp_path / "moved")
    for folder in (moved, moved / "model"):
        assert nlp_transfer.load(folder).predict(texts) == answers
    if values["strategy"] == "lora":
        whole = nlp_transfer.load(merge(moved, tmp_path / "whole")).predict(texts)
        assert [answer.label for answer in whole] == [answer.label for answer in answers]


@pytest.mark.slow
def test_checkpoints_are_removed_if_the_encoder_is_cached(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    forward, seen = MaskedStep.forward, []

    def stopping(self: MaskedStep, batch: dict, progress: float) -> torch.Tensor:
        seen.append(progress)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return forward(self, batch, progress)

    values = {"checkpoint.seconds": 0}
    with monkeypatch.context() as patch:
        patch.setattr(MaskedStep, "forward", stopping)
        with pytest.raises(KeyboardInterrupt):
            run_of_them(home, tmp_path / "a", **values)
    (folder,) = (tmp_path / "a").iterdir()
    assert any((folder / further.CHECKPOINTS).iterdir())
    other = run_of_them(home, tmp_path / "b", **values)
    monkeypatch.setattr(further, "fit", None)
    assert same(weights(run_of_them(home, tmp_path / "a", **values)), weights(other))
    assert not (folder / further.CHECKPOINTS).exists()
    assert not (folder / ENCODER).exists()


@pytest.mark.slow
def test_a_run_resumes_from_its_own_copy_of_the_encoder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    values, commit = {"checkpoint.seconds": 0}, resume.CheckpointWriter.commit
    plain = run_of_them(home, tmp_path / "plain", **values)

    def stopping(self: resume.CheckpointWriter, snapshot: checkpoint.Snapshot) -> None:
        commit(self, snapshot)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(resume.CheckpointWriter, "commit", stopping)
        with pytest.raises(KeyboardInterrupt):
            run_of_them(home, tmp_path / "parts", **values)
    shutil.rmtree(folder_of(None))
    monkeypatch.setattr(further, "digest_of_code", lambda: "other code")
    monkeypatch.setattr(further, "fit", None)
    assert same(weights(run_of_them(home, tmp_path / "parts", **values)), weights(plain))
    with pytest.raises(TypeError, match="not callable"):  # a run that starts again does so with the code of today
        run_of_them(home, tmp_path / "parts", **values | {"overwrite": True})


@pytest.mark.slow
def test_the_head_of_an_earlier_run_with_the_same_labels_stays(home: Path, tmp_path: Path):
    native = {"strategy": "finetune", "encoder.head": "native", "cache.gib": 0}
    first = run_of_them(home, tmp_path / "a", **native | {"pretraining.epochs": 0})
    again = run_of_them(home, tmp_path / "b", **native | {"encoder.name": str(first.folder / "model")})
    encoder, before = again.folder / ENCODER, weights(first)
    assert torch.equal(load_file(encoder / "model.safetensors")["classifier.weight"], before["classifier.weight"])
    assert not {"nlp_transfer.json", "answers.json"} & {path.name for path in encoder.iterdir()}
    records = [read_record(run.folder / "model") for run in (first, again)]
    assert records[0].max_tokens == records[1].max_tokens


@pytest.mark.slow
def test_a_teacher_predicts_once(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    teacher = run_of_them(home, tmp_path / "teacher", **{"pretraining.epochs": 0})
    own = {"objective": "distill", "objective.distill.teacher": str(teacher.folder)}
    asked, prepare = [], further.prepare
    monkeypatch.setattr(auxiliary, "teacher_columns", lambda *given: asked.append(1) or teacher_columns(*given))
    once = run_of_them(home, tmp_path / "once", **own)
    assert len(asked) == 1
    monkeypatch.setattr(further, "prepare", lambda *given, auxiliary, **named: prepare(*given, **named))
    assert same(weights(run_of_them(home, tmp_path / "twice", **own)), weights(once))
    assert len(asked) == 3
