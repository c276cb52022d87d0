"""Distillation: hand-computed values, the teacher's column, unlabelled texts, and refused settings."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

import nlp_transfer
from nlp_transfer.cli import main
from nlp_transfer.config import compose, run_id, words_of
from nlp_transfer.data.batches import Columns, Order
from nlp_transfer.data.corpus import load_corpus
from nlp_transfer.data.task import Task
from nlp_transfer.data.unlabelled import read_unlabelled
from nlp_transfer.encoder.classifier import Outputs
from nlp_transfer.errors import UserError
from nlp_transfer.objectives.distill import Distill
from nlp_transfer.objectives.objective import Objective
from nlp_transfer.objectives.settings import ClassifySettings, ContrastSettings, DistillSettings
from nlp_transfer.publishing.publication import _public
from nlp_transfer.running.preparation import prepare
from nlp_transfer.running.run import Run, adapt
from nlp_transfer.settings import ColumnSettings, DataSettings
from tests.cells import cells
from tests.data.windows import make_tokens
from tests.encoder.families import tiny_encoder
from tests.launched import printed_by
from tests.runs import STRATEGIES, data_for, settings_for, texts_in
from tests.stopped import weights_of_a_stopped_run_and_another
from tests.warm import Warm

LABELS = ("a", "b", "c")


def losses(problem: str, logits, teacher, **knobs) -> torch.Tensor:
    labels = () if problem == "regression" else LABELS
    term = Distill(DistillSettings(teacher="t", **knobs), Task(problem, labels, False, None))
    logits, teacher = torch.as_tensor(logits), torch.as_tensor(teacher)
    return term(Outputs(logits, logits), {"teacher": teacher}, 0.0)


def test_the_values_by_hand():
    # softmax([log 3, 0]) = (3/4, 1/4) at temperature 1, and (√3, 1) / (√3 + 1) at 2.
    own, theirs = [[0.0, 0.0, -1e9]], [[math.log(3), 0.0, -1e9]]
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert losses("single_label", own, theirs, temperature=1.0).tolist() == pytest.approx([kl], abs=1e-5)
    p = math.sqrt(3) / (math.sqrt(3) + 1)
    kl = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    assert losses("ordinal", own, theirs, temperature=2.0).tolist() == pytest.approx([4 * kl], abs=1e-5)
    each = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    ours = losses("multi_label", [[0.0, 0.0, 5.0]], [[math.log(3), 0.0, 5.0]], temperature=1.0)
    assert ours.tolist() == pytest.approx([each / 3], abs=1e-5)
    assert losses("regression", [[3.0], [1.0]], [[1.0], [1.0]]).tolist() == [4.0, 0.0]


@pytest.mark.parametrize("problem", ["single_label", "ordinal", "multi_label", "regression"])
@given(seed=st.integers(0, 99), temperature=st.floats(0.5, 8))
def test_the_loss_is_minimal_for_the_teacher_and_its_gradient_is_scaled(problem, seed, temperature):
    generator = torch.Generator().manual_seed(seed)
    teacher, other = torch.randn(2, 4, 1 if problem == "regression" else 3, generator=generator)
    assert losses(problem, teacher, teacher, temperature=temperature) == pytest.approx(0, abs=1e-5)
    assert (losses(problem, other, teacher, temperature=temperature) > 0).all()
    near = (teacher + 1e-2 * other).requires_grad_()
    losses(problem, near, teacher, temperature=temperature).sum().backward()
    assert near.grad.norm() < 0.1


@given(rows=st.integers(1, 40), others=st.integers(1, 40), batch=st.integers(1, 12), seed=st.integers(0, 9))
def test_each_step_has_its_rows_and_as_many_unlabelled_texts(rows: int, others: int, batch: int, seed: int):
    alone, both = Order(rows, batch_size=batch, seed=seed), Order(rows, batch_size=batch, seed=seed, unlabelled=others)
    steps = [both.step(step) for step in range(math.ceil(2 * others / min(rows, batch)) + 2)]
    for step, chosen in enumerate(steps):
        known = alone.step(step).tolist()
        assert chosen[: len(known)].tolist() == known
        assert len(chosen) == 2 * len(known)
        assert (chosen[len(known) :] >= rows).all()
    drawn = np.concatenate([chosen[len(chosen) // 2 :] for chosen in steps])
    for epoch in range(len(drawn) // others):  # every one once, before any for a second time
        assert sorted(drawn[epoch * others : (epoch + 1) * others]) == list(range(rows, rows + others))
    again = Order(rows, batch_size=batch, seed=seed, unlabelled=others)
    assert again.step(len(steps) - 1).tolist() == steps[-1].tolist()  # wherever a run goes on


@pytest.mark.parametrize("kind", ["classify", "contrast"])
def test_unlabelled_texts_do_not_change_the_weight_of_labels(kind: str):
    task = Task("single_label", LABELS, False, None)
    knobs = {"classify": ClassifySettings(weight=float(kind == "classify"))}
    knobs |= {"contrast": ContrastSettings()} if kind == "contrast" else {}
    objective = Objective(knobs, task)
    known = Columns(make_tokens([[3], [4], [1, 1], [5]]), np.array([0, 1, 0, 2]), np.array([1, 2, 1, 0.5], np.float32))
    columns = known.with_unlabelled(
        Columns(make_tokens([[2], [2], [6], [3]]), np.zeros(4, np.int64), np.ones(4, np.float32))
    )
    assert columns.labelled_rows == 4
    assert len(columns) == len(columns.tokens) == 8
    assert columns.tokens.full.tolist() == [3, 4, 2, 5, 2, 2, 6, 3]
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    ours = objective(Outputs(logits, logits), tensors(columns), 0.0) @ torch.from_numpy(columns.weights)
    alone = objective(Outputs(logits[:4], logits[:4]), tensors(known), 0.0) @ torch.from_numpy(known.weights)
    assert float(ours / columns.weights.sum()) == pytest.approx(float(alone / known.weights.sum()), rel=1e-5)


def tensors(columns: Columns) -> dict[str, torch.Tensor]:
    found = {name: getattr(columns, name) for name in ("targets", "weights", "labelled")}
    return {name: torch.from_numpy(values) for name, values in found.items() if values is not None}


def taught(home: Path, folder: Path, problem: str, strategy: str = "finetune", **values) -> tuple[Run, Run]:
    common = {"evaluation.floors": False, "decision.calibrate": False, "training.epochs": 6}
    teacher = adapt(settings_for(home, problem, output=str(folder / "t"), **common), data=data_for(problem))
    own = STRATEGIES[strategy] | common | {"objective": "distill", "objective.distill.teacher": str(teacher.folder)}
    settings = settings_for(home, problem, output=str(folder / "s"), **own | values)
    return teacher, adapt(settings, data=data_for(problem))


PROBLEMS = ("single_label", "multi_label", "regression", "ordinal", "soft", "pair", "siamese", "chunk")


@pytest.mark.parametrize(("strategy", "problem"), cells(("finetune", "lora", "probe adamw"), list(PROBLEMS)))
def test_a_student_without_labels_learns_the_teachers_predictions(home: Path, tmp_path: Path, strategy, problem):
    file = texts_in(tmp_path / "more.csv", problem)
    values = {"objective.classify.weight": 0.0, "data.unlabelled": str(file), "training.keep": "last"}
    values |= {} if strategy == "probe adamw" else {"strategy.head_first": False}
    _, student = taught(home, tmp_path, problem, strategy, **values)
    log = (student.folder / "metrics.jsonl").read_text().splitlines()
    curve = [row["loss"] for row in map(json.loads, log) if "loss" in row]
    assert np.mean(curve[-5:]) < np.mean(curve[:5])
    assert all(loss >= -1e-6 for loss in curve)


@pytest.mark.slow
def test_labels_are_matched_by_name_and_the_teacher_uses_its_own_tokens(home: Path, tmp_path: Path):
    file = texts_in(tmp_path / "more.csv", label="x")
    teacher, _ = taught(home, tmp_path, "single_label")
    own = {"objective": "distill", "objective.distill.teacher": str(teacher.folder / "model")}
    order = sorted({row["label"] for row in data_for("single_label")["train"]}, reverse=True)
    values = {"data.unlabelled": str(file), "data.problem": "ordinal", "data.order": order, "tokens.max_length": 8}
    settings = settings_for(home, **own | values)
    corpus = load_corpus(settings.data, data=data_for("single_label"))
    with pytest.raises(UserError, match="was adapted to another task"):
        prepare(settings, corpus, tmp_path)
    del values["data.problem"], values["data.order"]
    settings = settings_for(home, **own | values)
    corpus = load_corpus(settings.data, data=data_for("single_label"))
    assert any("'label' is not read" in note for note in corpus.notes)
    assert any("are measured too" in note for note in corpus.notes)
    columns = prepare(settings, corpus, tmp_path).training_columns()
    texts = [*corpus.splits["train"].texts, *corpus.unlabelled.texts]
    answers = nlp_transfer.load(teacher.folder).predict(texts)
    chances = softmax(columns.teacher, axis=1)
    for answer, row in zip(answers, chances, strict=True):
        assert list(answer.probabilities.values()) == pytest.approx(row.tolist(), abs=1e-5)


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_same_bits(home: Path, tmp_path: Path):
    file = texts_in(tmp_path / "more.csv")
    teacher, _ = taught(home, tmp_path, "single_label")
    given = {"data.unlabelled": str(file), "objective": "distill", "objective.distill.teacher": str(teacher.folder)}
    resumed, plain = weights_of_a_stopped_run_and_another(tmp_path, **given)
    assert resumed == plain


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"strategy": "probe"}, "an exact probe takes none"),
        ({"objective.distill.teacher": None}, r"objective\.distill\.teacher must name"),
        ({"objective.distill.temperature": 0}, "temperature=0"),
        ({"objective.distill.weight": -1}, "weight=-1"),
        ({"objective.distill.weight": 0, "data.unlabelled": "here.csv"}, "not read by this objective"),
        ({"objective.distill.teacher": "nowhere"}, "nowhere"),
        ({"objective": "classify", "data.unlabelled": "here.csv"}, "not read by this objective"),
        ({"data.unlabelled": "gone.csv"}, r"data\.unlabelled: .*gone\.csv"),
        ({"data.unlabelled": "empty.csv"}, "has no rows"),
        ({"data.unlabelled": "other.csv"}, "no column is known as the text|known name"),
        ({"data.unlabelled": "blank.csv"}, "blank.csv:3.*nothing to read"),
        ({"data.unlabelled": "blank.txt"}, "blank.txt:2.*nothing to read"),
    ],
)
def test_impossible_settings_are_refused(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.csv").write_text("text\none\n")
    (tmp_path / "empty.csv").write_text("text\n")
    (tmp_path / "other.csv").write_text("said\none\n")
    (tmp_path / "blank.csv").write_text('text\none\n" "\n')
    (tmp_path / "blank.txt").write_text("one\n\ntwo\n")
    expected = {"objective": "distill", "objective.distill.teacher": str(home)} | values
    if expected["objective"] == "classify":
        del expected["objective.distill.teacher"]
    with pytest.raises(UserError, match=message):
        adapt(settings_for(home, output=str(tmp_path / "runs"), **expected), data=data_for("single_label"))
    assert not (tmp_path / "runs").exists()


def test_a_text_file_has_one_text_per_line(tmp_path: Path):
    (tmp_path / "more.txt").write_text('a, "b"\n  text\nlabel\n')
    settings = DataSettings(unlabelled=str(tmp_path / "more.txt"))
    for roles in ({"text": "text", "label": "label"}, {"text": "sentence", "label": "label"}):
        found = read_unlabelled(settings, roles, notes := [])
        assert (found.texts, found.pairs, notes) == (['a, "b"', "  text", "label"], None, [])
    columns = ColumnSettings(text="body", text_pair="", id="number")
    chosen = dataclasses.replace(settings, columns=columns)
    assert read_unlabelled(chosen, {"text": "body", "label": "label", "id": "number"}, []).texts == found.texts
    with pytest.raises(UserError, match="two texts per row"):
        read_unlabelled(settings, {"text": "text", "text_pair": "text_pair", "label": "label"}, [])


@pytest.mark.slow
def test_two_processes_train_the_same_model_as_one(running: Warm, tmp_path: Path):
    folder = tiny_encoder(tmp_path, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    rows = data_for("single_label")
    for split, part in rows.items():
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, part)))
    file = texts_in(tmp_path / "more.csv")
    common = ["data=files", f"data.path={tmp_path}", f"encoder={folder}", "encoder.head_dropout=0", "verify=false"]
    common += ["strategy=finetune", "training.precision=fp32", "evaluation.floors=false", "report.write=false"]
    common += ["training.max_steps=6", "training.batch_size=8", "cache.gib=0"]
    teacher = nlp_transfer.adapt(None, [*common, f"output={tmp_path / 't'}"])
    words = ["adapt", *common, "objective=distill", f"objective.distill.teacher={teacher.folder}"]
    words += [f"data.unlabelled={file}"]
    found = []
    for processes in (1, 2):
        printed_by(running, [*words, f"output={tmp_path / str(processes)}"], processes=processes)
        (log,) = (tmp_path / str(processes)).glob("*/metrics.jsonl")
        found.append([row["loss"] for row in map(json.loads, log.read_text().splitlines()) if "loss" in row])
    assert len(found[0]) == 6
    assert found[1] == pytest.approx(found[0], rel=1e-3)


def test_overrides_of_a_run_with_two_terms_reproduce_it_and_hide_paths():
    settings = compose(None, ["objective=contrast", "+objective.distill.teacher=/home/me/teacher", "strategy=finetune"])
    words = words_of(settings)
    assert run_id(compose(None, words)) == run_id(settings)
    public = [_public(word, True) for word in words]
    assert "+objective.distill.teacher=teacher" in public
    assert "/home" not in " ".join(public)


@pytest.mark.slow
def test_another_teacher_in_the_same_folder_is_another_run(home: Path, tmp_path: Path):
    teacher, student = taught(home, tmp_path, "single_label")
    settings = compose(str(student.folder / "config.yaml"))
    assert adapt(settings, data=data_for("single_label")).folder == student.folder  # read back
    record = teacher.folder / "model" / "nlp_transfer.json"
    changed = json.loads(record.read_text())
    changed["sha256"] = "0" * 64
    record.write_text(json.dumps(changed))
    with pytest.raises(UserError, match="another teacher"):
        adapt(settings, data=data_for("single_label"))
    shutil.rmtree(teacher.folder)
    assert adapt(settings, data=data_for("single_label")).folder == student.folder


@pytest.mark.slow
def test_texts_without_labels_are_not_needed_to_measure_again(home: Path, tmp_path: Path):
    (tmp_path / "rows").mkdir()
    for split, part in data_for("single_label").items():
        (tmp_path / "rows" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, part)))
    file = texts_in(tmp_path / "more.csv")
    common = {"data": "files", "data.path": str(tmp_path / "rows"), "evaluation.floors": False}
    teacher = adapt(settings_for(home, output=str(tmp_path / "t"), **common))
    own = {"objective": "distill", "objective.distill.teacher": str(teacher.folder), "data.unlabelled": str(file)}
    student = adapt(settings_for(home, output=str(tmp_path / "s"), **common | own))
    file.unlink()
    shutil.rmtree(teacher.folder)
    assert main(["evaluate", str(student.folder), "report.output=null"]) == 0
