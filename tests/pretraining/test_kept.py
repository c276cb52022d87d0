"""What a pretraining leaves in the folder of its run, for how long, and what is done with such a run afterwards."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nlp_transfer import resume, saved
from nlp_transfer.config import compose
from nlp_transfer.console import Screen
from nlp_transfer.pretraining import further
from nlp_transfer.run import adapt
from nlp_transfer.settings import TrainingSettings
from tests.encoder.families import tiny_encoder
from tests.pretraining.test_runs import FIRST
from tests.test_run import data_for


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("pretraining"))


def test_what_checkpoints_take_counts_as_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = torch.nn.Linear(1024, 1024, bias=False)  # 4 MiB; a checkpoint has four times that
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=20 << 20))
    place, other = tmp_path / further.CHECKPOINTS, tmp_path / "checkpoints"
    (place / "step-000001").mkdir(parents=True)
    with (place / "step-000001" / "tensors.safetensors").open("wb") as stream:
        stream.truncate(50 << 20)
    assert resume.check_room(place, model, TrainingSettings()) is None
    said = resume.check_room(other, model, TrainingSettings())
    assert said is not None
    assert f"{tmp_path} lies on a disk with 20.0 MiB free" in said


def test_a_run_on_texts_without_labels_is_measured_again(home: Path, tmp_path: Path):
    for split, part in data_for("single_label").items():
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, part)))
    (tmp_path / "more.csv").write_text("text\none\ntwo\nthree\n")
    words = ["data=files", f"data.path={tmp_path}", f"data.unlabelled={tmp_path / 'more.csv'}", f"encoder={home}"]
    words += [f"{key}={str(value).lower()}" for key, value in FIRST.items()]
    words += ["pretraining.texts=unlabelled", "report.write=false", "verify=false", f"output={tmp_path / 'runs'}"]
    run = adapt(compose(None, words))
    found = saved.evaluate(run.folder, [], Screen(speaks=False))
    assert found["report"]["rows"][0]["intervals"] == run.report.to_json()["rows"][0]["intervals"]
