"""A model without layers as one table: it answers as the model, without this package too, or is refused with why."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import nlp_transfer
from nlp_transfer.artefact.folder import RECORD
from nlp_transfer.artefact.places import FIGURES, STATIC
from nlp_transfer.cli import main
from nlp_transfer.config import compose
from nlp_transfer.data.task import Task
from nlp_transfer.errors import UserError
from nlp_transfer.exporting.export import export
from nlp_transfer.predicting.exported import Exported
from nlp_transfer.predicting.predict import Predictor
from nlp_transfer.running.run import adapt
from tests.encoder.families import tiny_encoder
from tests.exporting.models import LABELS, SINGLE, saved_model
from tests.runs import data_for, settings_for

TEXTS = ["my card", "where is the order? it was charged twice", "a", "", "good movie " * 40, "größe 東京 [SEP]"]
TASKS = {
    "single_label": Task("single_label", LABELS, pair=False),
    "multi_label": Task("multi_label", LABELS, pair=False, threshold=(0.5, 0.2, 0.4)),
    "ordinal": Task("ordinal", LABELS, pair=False),
    "regression": Task("regression", (), pair=False),
}


@pytest.fixture(autouse=True)
def _timed_once(monkeypatch):
    monkeypatch.setattr("nlp_transfer.exporting.fidelity._BATCHES", {1: 1})


def table_of(model: Path) -> Path:
    return export(model, compose(None, ["export.format=static"])).folder


@pytest.mark.parametrize("problem", TASKS)
@pytest.mark.parametrize("chunk", [False, True])
def test_the_table_predicts_like_the_model(tmp_path: Path, problem: str, chunk: bool):
    model = saved_model(tmp_path, "bert", task=TASKS[problem], head="pooled", chunk=chunk, num_hidden_layers=0)
    made = table_of(model)
    predictor, reader = Predictor(model, precision="fp32"), nlp_transfer.load(made)
    assert isinstance(reader, Exported)
    for part in (slice(0, 1), slice(None), slice(3, 4)):
        assert np.abs(predictor.logits(TEXTS[part]) - reader.logits(TEXTS[part])).max() < 1e-4
    assert reader.predict([]) == []
    table = load_file(made / STATIC)["logits"]
    assert table.shape == (predictor.model.get_input_embeddings().num_embeddings, predictor.record.task.outputs)
    figures = json.loads((made / FIGURES).read_text())
    assert (figures["format"], figures["opset"], figures["changed_decisions"]) == ("static", None, 0)


@pytest.mark.parametrize(
    "problem",
    ["single_label", *(pytest.param(name, marks=pytest.mark.slow) for name in TASKS if name != "single_label")],
)
def test_the_readme_code_works_without_this_package_and_torch(tmp_path: Path, problem: str):
    model = saved_model(tmp_path, "bert", task=TASKS[problem], head="pooled", num_hidden_layers=0)
    made = table_of(model)
    (code,) = [part.removeprefix("python\n") for part in (made / "README.md").read_text().split("```")[1::2]]
    text = "where is the order? it was charged twice"
    code = "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n" + code.replace(
        '"a text"', repr(text)
    )
    code += "\nfound = [name for name in ('label', 'labels', 'value') if name in globals()]"
    code += "\nprint(json.dumps([logits.tolist(), globals()[found[0]]]))"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=made, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    logits, decided = json.loads(done.stdout)
    predictor = Predictor(model, precision="fp32")
    assert logits == pytest.approx(predictor.logits([text])[0].tolist(), abs=1e-4)
    assert decided == pytest.approx(predictor.predict([text])[0].label, abs=1e-4)


PAIRS = Task("single_label", LABELS, pair=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "this model has layers: use export.format=onnx"),
        ({"head": "native", "num_hidden_layers": 0}, "does not take the mean of its tokens"),
        ({"num_hidden_layers": 0, "task": PAIRS, "pairs": "siamese"}, "reads pairs of texts"),
        ({"num_hidden_layers": 0, "pooling": "max"}, "does not take the mean of its tokens"),
        ({"num_hidden_layers": 0, "hidden": 8}, r"has a hidden layer \(encoder\.hidden=8\)"),
    ],
)
def test_models_with_layers_are_refused(tmp_path: Path, options: dict, message: str):
    model = saved_model(tmp_path, "bert", **{"head": "pooled"} | options)
    with pytest.raises(UserError, match=message):
        table_of(model)
    assert not (tmp_path / "model-static").exists()


def test_models_with_positions_are_refused(tmp_path: Path):
    model = saved_model(tmp_path, "bert", head="pooled", num_hidden_layers=0)
    weights = load_file(model / "model.safetensors")
    (name,) = [name for name in weights if "position_embeddings" in name]
    weights[name] = np.random.default_rng(0).normal(size=weights[name].shape).astype(np.float32)
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    (model / RECORD).write_text(json.dumps(json.loads((model / RECORD).read_text()) | {"sha256": None}))
    with pytest.raises(UserError, match="uses the positions of tokens"):
        table_of(model)


def test_a_damaged_table_is_refused(tmp_path: Path):
    made = table_of(saved_model(tmp_path, "bert", task=SINGLE, head="pooled", num_hidden_layers=0))
    content = bytearray((made / STATIC).read_bytes())
    content[-1] ^= 1
    (made / STATIC).write_bytes(content)
    with pytest.raises(UserError, match="were changed since the export; copy the folder again"):
        Exported(made)
    (made / STATIC).unlink()
    with pytest.raises(UserError, match=f"holds none of .*{STATIC}"):
        Exported(made)


@pytest.mark.slow
def test_a_student_without_layers_is_exported_measured_and_teaches(tmp_path: Path, capfd):
    (tmp_path / "rows").mkdir()
    for split, part in data_for("single_label").items():
        (tmp_path / "rows" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, part)))
    tiny_encoder(tmp_path)
    given = {"data": "files", "data.path": str(tmp_path / "rows"), "evaluation.floors": False, "encoder.depth": 0}
    run = adapt(settings_for(tmp_path, output=str(tmp_path / "runs"), **given))
    assert main(["export", str(run.folder), "export.format=static"]) == 0
    capfd.readouterr()
    assert main(["evaluate", str(run.folder / "static"), "report.output=null"]) == 0
    found = json.loads(capfd.readouterr().out)["report"]["rows"][0]["intervals"]
    assert found["accuracy"]["value"] == pytest.approx(run.metrics["accuracy"])
    assert "| static |" in (run.folder / "model" / "README.md").read_text()
    own = {"objective": "distill", "objective.distill.teacher": str(run.folder / "static")}
    assert adapt(settings_for(tmp_path, output=str(tmp_path / "runs"), **given | own)).metrics
    with pytest.raises(UserError, match="an exported model, does not give: name the run"):
        adapt(settings_for(tmp_path, output=str(tmp_path / "runs"), **given | own | {"objective": "hint"}))
