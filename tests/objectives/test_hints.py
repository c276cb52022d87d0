"""Feature distillation: hand-computed values, invariances, runs of every strategy, and refused settings."""

import json
import math
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import nlp_transfer
from nlp_transfer.artefact.places import FIGURES
from nlp_transfer.config import compose, run_id, to_recipe, words_of
from nlp_transfer.data.corpus import load_corpus
from nlp_transfer.data.task import Task
from nlp_transfer.encoder.classifier import Outputs
from nlp_transfer.errors import UserError
from nlp_transfer.objectives.checks import check_objective
from nlp_transfer.objectives.hints import Hint, Relations
from nlp_transfer.objectives.settings import HintSettings, RelationsSettings
from nlp_transfer.predicting.predict import Predictor
from nlp_transfer.running.preparation import prepare
from nlp_transfer.running.run import Run, adapt
from tests.cells import cells
from tests.encoder.families import tiny_encoder
from tests.launched import printed_by
from tests.runs import STRATEGIES, data_for, settings_for, texts_in
from tests.stopped import weights_of_a_stopped_run_and_another
from tests.warm import Warm

TASK = Task("single_label", ("a", "b"), False, None)
TERMS = ("hint", "relations")
MOVING = [name for name in STRATEGIES if not name.startswith("probe")]
PROBLEMS = ("single_label", "multi_label", "regression", "ordinal", "soft", "pair", "siamese", "chunk")


def hints(features, teacher) -> torch.Tensor:
    term = Hint(HintSettings(), TASK)
    features, teacher = torch.as_tensor(features), torch.as_tensor(teacher)
    term.setup(features.shape[1], teacher.shape[1])
    return term(Outputs(features, features), {"teacher_features": teacher}, 0.0)


def relations(features, teacher, weights=None) -> torch.Tensor:
    features, teacher = torch.as_tensor(features), torch.as_tensor(teacher)
    weights = torch.ones(len(features)) if weights is None else torch.as_tensor(weights)
    batch = {"teacher_features": teacher, "weights": weights}
    return Relations(RelationsSettings(), TASK)(Outputs(features, features), batch, 0.0)


def test_hints_by_hand():
    # Cosines 0.6, 1 and -1; (0.8, -0.6) / 1 against (1, 0): 0.04 + 0.36 = 2 - 2 · 0.8.
    ours = hints([[3.0, 4.0], [2.0, 0.0], [0.0, 1.0], [0.8, -0.6]], [[1.0, 0.0], [5.0, 0.0], [0.0, -2.0], [1.0, 0.0]])
    assert ours.tolist() == pytest.approx([0.8, 0.0, 4.0, 0.4], abs=1e-6)


def test_relations_by_hand():
    # Cosines of the model: 0.8, 0, 0.6; of the teacher 0, 0.6, 0.8.
    own = [[1.0, 0.0], [0.8, 0.6], [0.0, 2.0]]
    theirs = [[0.0, 3.0, 0.0], [1.0, 0.0, 0.0], [0.8, 0.6, 0.0]]
    assert relations(own, theirs).tolist() == pytest.approx([(0.64 + 0.36) / 2, (0.64 + 0.04) / 2, 0.2], abs=1e-6)
    weighed = relations(own, theirs, [1.0, 3.0, 1.0])
    assert weighed.tolist() == pytest.approx([(3 * 0.64 + 0.36) / 4, 0.34, (0.36 + 3 * 0.04) / 4], abs=1e-6)
    assert relations(own[:1], theirs[:1]).tolist() == [0.0]


@given(seed=st.integers(0, 99), width=st.integers(2, 6), texts=st.integers(2, 9))
def test_the_loss_is_minimal_for_the_teacher_itself(seed: int, width: int, texts: int):
    generator = torch.Generator().manual_seed(seed)
    teacher, other = torch.randn(2, texts, width, generator=generator, dtype=torch.float32)
    turn = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    for term, same in ((hints, 3 * teacher), (relations, 3 * teacher), (relations, teacher @ turn)):
        assert term(same, teacher).tolist() == pytest.approx([0] * texts, abs=1e-5)
        assert (term(other, teacher) >= 0).all()


def test_a_linear_map_is_trained_only_for_other_widths():
    torch.manual_seed(0)
    term = Hint(HintSettings(lr=0.5), TASK)
    term.setup(3, 3)
    assert not list(term.parameters())
    term.setup(3, 5)
    assert [tuple(p.shape) for p in term.parameters()] == [(5, 3)]
    features, teacher = torch.randn(4, 3), torch.randn(4, 5)
    loss = term(Outputs(features, features), {"teacher_features": teacher}, 0.0)
    mapped = features @ term.map.weight.T
    assert loss.tolist() == pytest.approx((2 - 2 * torch.cosine_similarity(mapped, teacher)).tolist(), abs=1e-5)


COMMON = {"evaluation.floors": False, "decision.calibrate": False}


@pytest.fixture(scope="module")
def teacher_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Runs of a wider encoder, one a problem."""
    folder = tmp_path_factory.mktemp("teachers")
    wide = tiny_encoder(folder, hidden_size=48)

    @cache
    def run_for(problem: str = "single_label") -> Path:
        own = {"encoder.name": str(wide), "output": str(folder / problem), "training.epochs": 1}
        return adapt(settings_for(folder, problem, **COMMON | own), data=data_for(problem)).folder

    return run_for


def taught(home: Path, folder: Path, teacher: Path, term: str, problem: str = "single_label", **values) -> Run:
    file = texts_in(folder / "more.csv", problem)
    given = {"objective": term, "objective.distill.teacher": str(teacher), "data.unlabelled": str(file)}
    settings = settings_for(home, problem, output=str(folder / "s"), **COMMON | given | values)
    return adapt(settings, data=data_for(problem))


@pytest.mark.parametrize(("strategy", "term"), cells(MOVING, TERMS))
def test_every_training_strategy_approaches_the_teacher(home, tmp_path, teacher_of, strategy, term):
    values = STRATEGIES[strategy] | {"training.epochs": 8, "objective.distill.weight": 0.0, "strategy.lr": 1e-3}
    values |= {f"objective.{term}.weight": 100.0, "training.keep": "last"}
    student = taught(home, tmp_path, teacher_of(), term, **values)
    log = (student.folder / "metrics.jsonl").read_text().splitlines()
    curve = [row["loss"] for row in map(json.loads, log) if "loss" in row]
    assert np.mean(curve[-5:]) < np.mean(curve[:5])
    groups = json.loads((student.folder / "plan.json").read_text())["groups"]
    assert [group["lr"] for group in groups if group["name"] == "hint"] == [1e-3] * (term == "hint")


@pytest.mark.parametrize(("problem", "term"), cells(PROBLEMS, TERMS))
def test_every_problem_supports_the_terms_and_saves_nothing_of_them(
    home, tmp_path, teacher_of, term: str, problem: str
):
    student = taught(home, tmp_path, teacher_of(problem), term, problem, **{"training.epochs": 1})
    assert all(np.isfinite(value) for value in student.metrics.values())
    assert not [name for name in load_file(student.folder / "model" / "model.safetensors") if "terms" in name]


@pytest.mark.slow
def test_teacher_features_are_those_of_its_output_layer(home, tmp_path, teacher_of):
    file = texts_in(tmp_path / "more.csv")
    given = {"objective.distill.teacher": str(teacher_of()), "data.unlabelled": str(file)}
    for term in ("hint", "distill"):
        settings = settings_for(home, objective=term, **given)
        corpus = load_corpus(settings.data, data=data_for("single_label"))
        columns = prepare(settings, corpus, tmp_path).training_columns()
        texts = [*corpus.splits["train"].texts, *corpus.unlabelled.texts]
        if term == "distill":
            assert columns.teacher_features is None
            continue
        _, features = Predictor(teacher_of()).logits_and_features(texts)
        assert columns.teacher_features.shape == (len(texts), 48)
        assert np.abs(columns.teacher_features - features).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("term", TERMS)
def test_a_stopped_run_resumes_to_the_same_bits(tmp_path: Path, teacher_of, term: str):
    file = texts_in(tmp_path / "more.csv")
    given = {"data.unlabelled": str(file), "objective": term, "objective.distill.teacher": str(teacher_of())}
    resumed, plain = weights_of_a_stopped_run_and_another(tmp_path, **given)
    assert resumed == plain


@pytest.mark.exhaustive
def test_two_processes_train_the_same_model_as_one(running: Warm, tmp_path: Path, teacher_of):
    file = texts_in(tmp_path / "more.csv")
    folder = tiny_encoder(tmp_path, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    for split, part in data_for("single_label").items():
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, part)))
    words = ["adapt", "data=files", f"data.path={tmp_path}", f"encoder={folder}", "encoder.head_dropout=0"]
    words += ["strategy=finetune", "training.precision=fp32", "evaluation.floors=false", "report.write=false"]
    words += ["training.max_steps=6", "training.batch_size=8", "cache.gib=0", "verify=false", "objective=hint"]
    words += [f"objective.distill.teacher={teacher_of()}", f"data.unlabelled={file}"]
    found = []
    for processes in (1, 2):
        printed_by(running, [*words, f"output={tmp_path / str(processes)}"], processes=processes)
        (log,) = (tmp_path / str(processes)).glob("*/metrics.jsonl")
        found.append([row["loss"] for row in map(json.loads, log.read_text().splitlines()) if "loss" in row])
    assert len(found[0]) == 6
    assert found[1] == pytest.approx(found[0], rel=1e-3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"strategy": "probe"}, r"objective\.hint trains the encoder, which strategy=probe freezes"),
        ({"strategy": "probe", "strategy.solver": "adamw"}, r"objective\.hint trains the encoder"),
        ({"objective.hint.weight": -1}, r"objective\.hint\.weight=-1"),
        ({"objective.hint.lr": 0}, r"objective\.hint\.lr=0"),
        ({"objective": "relations", "objective.relations.weight": -1}, r"objective\.relations\.weight=-1"),
        ({"objective": "relations", "training.batch_size": 2}, "must be at least 4 for objective.relations"),
        ({"objective.distill.teacher": None}, r"objective\.distill\.teacher must name"),
        ({"objective.distill.teacher": "exported"}, "an exported model, does not give: name the run"),
    ],
)
def test_impossible_settings_are_refused(home: Path, tmp_path: Path, monkeypatch, values: dict, message: str):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / FIGURES).write_text("{}")
    monkeypatch.setattr("nlp_transfer.predicting.predict.Exported", lambda *_, **__: Answering())
    expected = {"objective": "hint", "objective.distill.teacher": str(home)} | values
    with pytest.raises(UserError, match=message):
        adapt(settings_for(home, output=str(tmp_path / "runs"), **expected), data=data_for("single_label"))
    assert not (tmp_path / "runs").exists()


def test_layers_below_the_output_layer_must_be_trained(home: Path, tmp_path: Path, teacher_of):
    values = {"strategy.freeze": ["encoder.*"], "encoder.head": "pooled"}
    with pytest.raises(UserError, match="nothing below the output layer learns"):
        taught(home, tmp_path, teacher_of(), "hint", **values)


class Answering:
    """A stand-in for an exported teacher: a record of the same task and no features."""

    @property
    def record(self):
        labels = tuple(sorted({row["label"] for row in data_for("single_label")["train"]}))
        return type("Record", (), {"task": Task("single_label", labels, False, None), "risk_curve": None})

    def with_rules(self, _):
        return self


def test_a_term_without_a_teacher_is_refused():
    settings = compose(None, ["+objective.hint.weight=1", "strategy=finetune"])
    with pytest.raises(UserError, match=r"objective\.hint needs a teacher: .*\+objective\.distill\.teacher"):
        check_objective(settings)


def test_words_and_recipes_of_both_terms_make_the_same_run(tmp_path: Path):
    words = ["objective=hint", "objective.distill.teacher=/t", "+objective.relations.weight=2", "strategy=finetune"]
    settings = compose(None, words)
    assert list(settings.objective) == ["classify", "distill", "hint", "relations"]
    assert run_id(compose(None, words_of(settings))) == run_id(settings)
    (tmp_path / "again.yaml").write_text(to_recipe(settings))
    assert run_id(compose(str(tmp_path / "again.yaml"))) == run_id(settings)


def test_another_teacher_in_the_same_folder_is_another_run(home: Path, tmp_path: Path, teacher_of):
    values = {"objective.distill.weight": 0.0, "training.max_steps": 2}
    teacher = Path(shutil.copytree(teacher_of(), tmp_path / "teacher"))
    student = taught(home, tmp_path, teacher, "relations", **values)
    settings = compose(str(student.folder / "config.yaml"))
    assert adapt(settings, data=data_for("single_label")).folder == student.folder
    record = teacher / "model" / "nlp_transfer.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"sha256": "0" * 64}))
    with pytest.raises(UserError, match="another teacher"):
        adapt(settings, data=data_for("single_label"))
    shutil.rmtree(teacher)
    assert nlp_transfer.load(student.folder).predict(["my card"])[0].label
    assert math.isfinite(next(iter(student.metrics.values())))
