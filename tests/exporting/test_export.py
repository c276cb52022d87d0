"""Exports predict and decide like the model; others are not kept."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import nlp_transfer
from nlp_transfer.artefact.folder import RECORD
from nlp_transfer.artefact.places import FIGURES, ONNX, OPENVINO
from nlp_transfer.cli import main
from nlp_transfer.config import compose
from nlp_transfer.data.task import Task
from nlp_transfer.errors import UserError
from nlp_transfer.exporting import export as exporting
from nlp_transfer.exporting.export import export
from nlp_transfer.exporting.fidelity import Figure, _equal, _tied
from nlp_transfer.predicting.exported import Exported
from nlp_transfer.predicting.predict import Predictor
from nlp_transfer.strategies import Adapter, Lora
from tests.encoder.families import FAMILIES
from tests.exporting.models import LABELS, SINGLE, saved_model
from tests.place import adapt_words, furnish, run_of

pytestmark = pytest.mark.slow

TEXTS = [
    "my card",
    "where is the order? it was charged twice",
    "a",
    "refund",
    "",
    "good movie " * 40,
    "größe 東京 [SEP]",
]
OTHERS = ["late", "it was charged twice " * 3, "b", "refund", "not", "bad", "a"]
# These name their layers otherwise, or alternate between two kinds of them.
TWO_LAYERS = {"distilbert", "xlnet", "funnel", "gpt2", "xlm", "t5", "bart", "modernbert", "gemma3_text"}
# What torch makes no graph of, and what it says.
REFUSED = {
    "xlnet": "RuntimeError: Cannot find a compatible OpOverload",
    "longformer": "GuardOnDataDependentSymNode",
    "funnel": "UserError: Constraints violated",
    "jamba": "UserError: Constraints violated",
}


def exported(folder: Path, form: str = "onnx", **settings) -> Path:
    words = [f"export.format={form}", *(f"export.{key}={value}" for key, value in settings.items())]
    return export(folder, compose(None, words)).folder


def assert_answers_alike(model: Path, made: Path) -> None:
    """Every decision and probability of both, for texts of many lengths, alone and together."""
    predictor, reader = Predictor(model, precision="fp32"), Exported(made)
    pair = predictor.record.task.pair
    for part in (slice(0, 1), slice(None), slice(2, 5)):
        texts, pairs = TEXTS[part], OTHERS[part] if pair else None
        assert np.abs(predictor.logits(texts, pairs) - reader.logits(texts, pairs)).max() < 1e-4
        for ours, theirs in zip(predictor.predict(texts, pairs), reader.predict(texts, pairs), strict=True):
            if predictor.record.task.problem == "regression":
                assert theirs.label == pytest.approx(ours.label, abs=1e-4)
            else:
                assert theirs.label == ours.label
            assert theirs.probabilities == pytest.approx(ours.probabilities, abs=1e-5)
    assert reader.predict([]) == []


@pytest.fixture(autouse=True)
def _timed_once(monkeypatch):
    monkeypatch.setattr("nlp_transfer.exporting.fidelity._BATCHES", {1: 1})


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a finished run, of which long texts are read in windows."""
    folder = furnish(tmp_path_factory.mktemp("export"))
    words = ["encoder.head=native", "strategy=finetune", "training.max_steps=4", "tokens.long=chunk"]
    assert main(adapt_words(folder, *words, "tokens.max_length=16")) == 0
    return folder


@pytest.fixture(scope="module")
def onnx(place: Path) -> Path:
    """The folder of an export of the run."""
    target = place / "exported"
    words = ["export.format=onnx", f"export.output={target}"]
    assert main(["export", run_of(place), *words]) == 0
    return target


def test_an_export_in_the_folder_of_its_run_is_measured_as_the_run_was(place: Path, capfd):
    run = Path(run_of(place))
    assert main(["export", str(run)]) == 0
    capfd.readouterr()
    assert main(["evaluate", str(run / "onnx")]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["folder"] == str(run / "onnx")
    reference = json.loads((run / "metrics.json").read_text())["report"]
    for theirs, ours in zip(found["report"]["rows"], reference["rows"], strict=True):
        for name, figures in ours["intervals"].items():
            assert theirs["intervals"][name] == pytest.approx(figures, abs=1e-4)


def test_a_run_is_exported_and_compared_on_its_own_rows(place: Path, onnx: Path):
    figures = json.loads((onnx / FIGURES).read_text())
    assert (figures["on"], figures["equal_decisions"], figures["changed_decisions"]) == ("validation", 1, 0)
    assert figures["rows"] == len((place / "data" / "validation.csv").read_text().splitlines()) - 1
    assert figures["largest_difference"] < 1e-4
    assert set(figures["metrics"]) == {"accuracy", "macro_f1"}
    assert all(figure["model"] == figure["export"] for figure in figures["metrics"].values())
    assert set(figures["milliseconds"]) == {"1", "32"}
    assert len({tuple(shape) for shape in figures["shapes"]}) >= 2
    assert figures["megabytes"]["export"] == pytest.approx((onnx / ONNX).stat().st_size / 1e6)
    assert figures["notes"] == []
    assert_answers_alike(Path(run_of(place)), onnx)
    left = {path.name for path in place.iterdir()}
    assert not [name for name in left if name.startswith((".making", ".trash"))]


def test_an_export_takes_any_batch_and_length_by_the_names_of_the_tokenizer(onnx: Path):
    """In a process that has neither this package nor torch."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import onnxruntime\nfrom transformers import AutoTokenizer\n"
        f"tokenizer = AutoTokenizer.from_pretrained({str(onnx)!r})\n"
        f"session = onnxruntime.InferenceSession({str(onnx / ONNX)!r})\n"
        "given = {each.name: each.shape for each in session.get_inputs()}\n"
        "assert set(given) == set(tokenizer.model_input_names), given\n"
        "assert set(map(tuple, given.values())) == {('batch', 'length')}, given\n"
        "assert [each.name for each in session.get_outputs()] == ['logits']\n"
        "for texts in (['a'], ['my card', 'a b c d e'], ['a'] * 5):\n"
        "    rows = tokenizer(texts, padding=True, return_tensors='np')\n"
        "    logits, = session.run(['logits'], dict(rows))\n"
        "    assert logits.shape == (len(texts), 3)\n"
        "assert 'nlp_transfer' not in sys.modules"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_predict_and_load_take_an_export(place: Path, onnx: Path, tmp_path: Path, capfd):
    (tmp_path / "rows.csv").write_text("text\nmy card is late\ngood movie\n")
    capfd.readouterr()
    printed = []
    for folder in (run_of(place), str(onnx)):
        assert main(["predict", folder, str(tmp_path / "rows.csv"), "training.precision=fp32"]) == 0
        printed.append([line.split(",")[:2] for line in capfd.readouterr().out.splitlines()])
    assert printed[0] == printed[1]
    assert isinstance(nlp_transfer.load(onnx), Exported)
    with pytest.raises(UserError, match="takes a list of texts"):
        nlp_transfer.load(onnx).predict("my card")
    with pytest.raises(UserError, match="trained on single texts"):
        nlp_transfer.load(onnx).predict(["a"], ["b"])


def test_a_damaged_export_is_refused(onnx: Path, tmp_path: Path):
    folder = Path(shutil.copytree(onnx, tmp_path / "copy"))
    content = bytearray((folder / ONNX).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / ONNX).write_bytes(content)
    with pytest.raises(UserError, match="were changed since the export; copy the folder again"):
        Exported(folder)
    (folder / ONNX).unlink()
    with pytest.raises(UserError, match=f"holds none of {ONNX}, {OPENVINO}"):
        Exported(folder)


def test_what_cannot_be_exported_is_refused_before_the_model_is_loaded(place: Path, tmp_path: Path, monkeypatch, capfd):
    capfd.readouterr()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("years of work")
    for word, message in (
        ("export.format=tflite", "export.format='tflite' is not known; choose from: onnx, onnx_int8, openvino, static"),
        ("export.threads=0", "export.threads=0 must be at least 1"),
        ("export.rows=0", "export.rows=0 must be at least 1"),
        ("export.output=''", "export.output is empty"),
        (f"export.output={tmp_path / 'thesis'}", "exists and is not a saved export; it is not overwritten"),
        (f"export.output={run_of(place)}/model", "exists and is not a saved export; it is not overwritten"),
    ):
        assert main(["export", run_of(place), word]) == 2
        assert message in capfd.readouterr().err
    assert main(["export", str(tmp_path / "thesis")]) == 2
    assert "holds no nlp_transfer.json" in capfd.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["export", run_of(place)]) == 2
    expected = 'onnx, onnxscript, onnxruntime is not installed: pip install "nlp-transfer[export]"'
    assert expected in capfd.readouterr().err
    assert sorted(path.name for path in (tmp_path / "thesis").iterdir()) == ["chapter"]


def test_without_rows_an_export_is_compared_on_sentences(place: Path, tmp_path: Path):
    run = Path(shutil.copytree(run_of(place), tmp_path / "run"))
    settings = compose(str(run / "config.yaml"), ["export.rows=5"])
    record = exporting.read_record(run / "model")
    rows, notes = exporting._rows(run, settings, record)
    assert rows is not None
    assert len(rows) == len(rows.targets) == len(rows.ids) == 5
    assert "validation rows, evenly spread (export.rows)" in notes[0]
    gone = replace(settings, data=replace(settings.data, path=str(tmp_path / "gone")))
    rows, notes = exporting._rows(run, gone, record)
    assert rows is None
    assert "cannot be read now" in notes[0]
    given = replace(settings, data=replace(settings.data, path=None))
    assert "given from Python" in exporting._rows(run, given, record)[1][0]
    other = replace(record, task=Task("single_label", ("a", "b"), pair=False))
    assert "no longer has the labels" in exporting._rows(run, settings, other)[1][0]
    assert exporting._rows(None, settings, record)[0] is None


def test_a_graph_with_other_outputs_is_not_kept(place: Path, onnx: Path, tmp_path: Path, monkeypatch, capfd):
    model = Path(shutil.copytree(Path(run_of(place)) / "model", tmp_path / "model"))
    weights = load_file(model / "model.safetensors")
    weights["classifier.bias"][0] += 0.05
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    record = json.loads((model / RECORD).read_text())
    (model / RECORD).write_text(json.dumps(record | {"sha256": None}))
    monkeypatch.setattr(exporting, "_write", lambda *given: shutil.copytree(onnx, given[-1], dirs_exist_ok=True))
    capfd.readouterr()
    assert main(["export", str(model), f"export.output={tmp_path / 'made'}"]) == 2
    sentence = capfd.readouterr().err
    assert "its export gives other answers: logits differ by up to 0.05" in sentence
    assert "nothing is written. The conversion is at fault (torch" in sentence
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize("form", ["onnx_int8", "openvino"])
def test_other_formats_have_all_their_files(tmp_path: Path, form: str):
    if form == "openvino":
        pytest.importorskip("openvino")
    siamese = {"task": Task("single_label", LABELS, pair=True), "head": "pooled", "pairs": "siamese"}
    chunked = {"task": Task("multi_label", LABELS, pair=False), "head": "pooled", "chunk": True}
    options = chunked if form == "openvino" else siamese
    model = saved_model(tmp_path, "bert", num_hidden_layers=1, **options)
    made = exported(model, form)
    assert made == tmp_path / f"model-{form}"
    figures = json.loads((made / FIGURES).read_text())
    assert figures["on"] == "sentences"
    assert figures["metrics"] == {}
    assert (made / (OPENVINO if form == "openvino" else ONNX)).is_file()
    assert not list(made.glob("float*"))
    assert "auto_map" not in json.loads((made / "config.json").read_text())
    if form == "openvino":
        assert_answers_alike(model, made)
        return
    import onnx as library

    nodes = library.load(made / ONNX).graph.node
    assert "MatMulInteger" in {node.op_type for node in nodes}
    assert nodes[-1].op_type == "Gemm" or nodes[-2].op_type == "MatMul"  # the last layer is in float
    assert figures["megabytes"]["export"] < figures["megabytes"]["model"]
    assert figures["largest_difference"] > 0
    assert Exported(made).predict(TEXTS, OTHERS)[0].label in LABELS


def test_an_adapter_is_merged_first_where_it_can_be(tmp_path: Path, capfd):
    model = saved_model(tmp_path, "bert", adapter=Lora(rank=2), merged=False)
    assert not (model / "model.safetensors").exists()
    assert main(["export", str(model)]) == 2
    assert f"not merged: nlp-transfer merge {model} WHOLE, then nlp-transfer export WHOLE" in capfd.readouterr().err
    whole = tmp_path / "whole"
    assert main(["merge", str(model), str(whole)]) == 0
    assert json.loads(capfd.readouterr().out) == {"model": str(whole)}
    assert not list(whole.glob("adapter*"))
    before, after = (Predictor(folder, precision="fp32").logits(TEXTS) for folder in (model, whole))
    assert np.abs(before - after).max() < 1e-4
    again = tmp_path / "again"
    assert main(["merge", str(whole), str(again)]) == 0
    assert (Predictor(again, precision="fp32").logits(TEXTS) == after).all()
    capfd.readouterr()
    for words, message in (
        ([str(model)], "merge takes RUN and the folder to write"),
        ([str(model), str(model)], "is the model itself"),
        ([str(tmp_path / "tiny-bert"), str(tmp_path / "new")], "holds no nlp_transfer.json"),
        ([str(model), str(tmp_path)], "exists and is not a saved model; it is not overwritten"),
    ):
        assert main(["merge", *words]) == 2
        assert message in capfd.readouterr().err
    (again / FIGURES).write_text("{}")
    assert main(["merge", str(model), str(again)]) == 2
    assert "holds an exported model" in capfd.readouterr().err


def test_a_method_that_cannot_be_merged_is_refused_with_the_reason(tmp_path: Path, capfd):
    adapter = Adapter(peft_type="PROMPT_TUNING", peft={"num_virtual_tokens": 2})
    model = saved_model(tmp_path, "bert", adapter=adapter)
    assert main(["merge", str(model), str(tmp_path / "whole")]) == 2
    sentence = capfd.readouterr().err
    assert "(PROMPT_TUNING) cannot be merged: PEFT cannot merge this method (" in sentence
    assert not (tmp_path / "whole").exists()


def test_which_decisions_count_as_changed():
    reference = np.array([[1.0, 0.0], [1.0, 1.0 - 1e-6], [1.0, 0.9]])
    found = reference[:, ::-1]
    task = Task("single_label", ("a", "b"), pair=False)
    assert (~_equal(task, reference, found)).all()
    assert _tied(task, reference, found).tolist() == [False, True, False]
    several = Task("multi_label", ("a", "b"), pair=False)
    reference, found = (
        np.array([[1e-6, 1.0], [0.1, 1.0], [1.0, 1.0]]),
        np.array([[-1e-6, 1.0], [-0.1, 1.0], [1.0, 1.0]]),
    )
    assert _equal(several, reference, found).tolist() == [False, False, True]
    assert _tied(several, reference, found).tolist() == [True, False, True]
    number = Task("regression", (), pair=False)
    reference, found = np.array([[1.0], [5000.0], [1.0]]), np.array([[1.0005], [5000.02], [1.01]])
    assert _equal(number, reference, found).tolist() == [True, True, False]
    assert Figure(1.0, 2.0).export == 2.0


CASES = [
    pytest.param("native", Task("multi_label", LABELS, pair=False), {}, marks=pytest.mark.exhaustive),
    pytest.param("native", Task("ordinal", LABELS, pair=False), {"chunk": True}, marks=pytest.mark.exhaustive),
    pytest.param("native", Task("single_label", LABELS, pair=True), {}, marks=pytest.mark.exhaustive),
    pytest.param("pooled", Task("regression", (), pair=False), {}, marks=pytest.mark.exhaustive),
    ("pooled", Task("single_label", LABELS, pair=True), {"pairs": "siamese"}),
    pytest.param("pooled", SINGLE, {"chunk": True}, marks=pytest.mark.exhaustive),
]


@pytest.mark.parametrize(("head", "task", "options"), CASES, ids=lambda value: getattr(value, "problem", None))
def test_every_problem_is_decided_on_as_in_python(tmp_path: Path, head: str, task: Task, options: dict):
    model = saved_model(tmp_path, "bert" if task.pair else "roberta", task=task, head=head, **options)
    assert_answers_alike(model, exported(model))


# Of every way of computing one; the exhaustive ones are all the others.
OFTEN = ("modernbert", "deberta-v2")
FAMILY_CASES = [
    *((family, "native") for family in OFTEN),
    *(pytest.param(family, "native", marks=pytest.mark.exhaustive) for family in FAMILIES if family not in OFTEN),
    *(pytest.param(each, "pooled", marks=pytest.mark.exhaustive) for each in ("gpt2", "modernbert", "llama", "t5")),
]


@pytest.mark.parametrize(("family", "head"), FAMILY_CASES)
def test_every_family_is_exported_exactly_or_refused_with_the_reason(tmp_path: Path, family: str, head: str):
    fewer = {} if family in TWO_LAYERS else {"num_hidden_layers": 1}  # half the time
    model = saved_model(tmp_path, family, head=head, **fewer)
    if family in REFUSED:
        expected = rf"{family} cannot be exported: .*{REFUSED[family]}.*; use the saved model"
        with pytest.raises(UserError, match=expected):
            exported(model)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["model", f"tiny-{family}"]
    else:
        assert_answers_alike(model, exported(model))
