"""Domain adaptation runs: discriminators, reports, and unchanged parts."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nlp_transfer.cli import main
from nlp_transfer.config import compose
from nlp_transfer.data.corpus import load_corpus
from nlp_transfer.data.rows import Texts
from nlp_transfer.data.task import Task
from nlp_transfer.domains.source_only import SourceOnly, without_texts
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.baselines import Baseline
from nlp_transfer.evaluation.reverse_validation import DomainFeatures
from nlp_transfer.running import run
from nlp_transfer.running.preparation import prepare
from nlp_transfer.running.run import adapt
from nlp_transfer.settings import EvaluationSettings
from nlp_transfer.training import checkpoint
from tests.cells import cells
from tests.encoder.families import tiny_encoder
from tests.launched import printed_by
from tests.runs import STRATEGIES, data_for, settings_for, texts_in
from tests.stopped import stopped_run, weights_of_a_stopped_run_and_another
from tests.warm import Warm

TERMS = ("coral", "mmd", "dann", "cdan", "mcc")
PROBLEMS = ("single_label", "soft", "multi_label", "ordinal", "regression", "pair", "siamese", "chunk")
MEANT = {"cdan": ("single_label", "soft", "ordinal", "pair", "siamese", "chunk")}
MEANT |= {"mcc": ("single_label", "soft", "pair", "siamese", "chunk")}


def adapted(home: Path, folder: Path, term: str, problem: str = "single_label", strategy: str = "finetune", **values):
    file = texts_in(folder / "target.csv", problem)
    expected = {"evaluation.floors": False, "evaluation.source_only": False, "training.epochs": 2}
    expected |= {"objective": term, "data.unlabelled": str(file)} | STRATEGIES[strategy]
    return adapt(settings_for(home, problem, output=str(folder / "runs"), **expected | values), data=data_for(problem))


@pytest.mark.parametrize(
    ("strategy", "term"), cells([name for name in STRATEGIES if not name.startswith("probe")], TERMS)
)
def test_every_strategy_that_moves_the_encoder_takes_every_term(home: Path, tmp_path: Path, strategy: str, term: str):
    run = adapted(home, tmp_path, term, strategy=strategy)
    assert all(np.isfinite(value) for value in run.metrics.values())
    plan = json.loads((run.folder / "plan.json").read_text())
    own = [group for group in plan["groups"] if group["name"] == term]
    assert [group["lr"] for group in own] == [1e-3] * (term in ("dann", "cdan"))


@pytest.mark.parametrize(("problem", "term"), cells(PROBLEMS, TERMS))
def test_every_problem_takes_the_terms_that_mean_something(home: Path, tmp_path: Path, term: str, problem: str):
    if problem in MEANT.get(term, PROBLEMS):
        run = adapted(home, tmp_path, term, problem)
        assert all(np.isfinite(value) for value in run.metrics.values())
    else:
        with pytest.raises(UserError, match=rf"objective\.{term} .*problem type {problem}"):
            adapted(home, tmp_path, term, problem)


@pytest.mark.parametrize("strategy", ["finetune refined", "lora"])
def test_a_discriminator_changes_nothing_of_how_a_run_starts(home: Path, tmp_path: Path, strategy: str):
    file = texts_in(tmp_path / "target.csv")
    found = []
    for values in ({"objective": "classify"}, {"objective": "cdan", "data.unlabelled": str(file)}):
        settings = settings_for(home, seed=3, **STRATEGIES[strategy] | values)
        prepared = prepare(settings, load_corpus(settings.data, seed=0, data=data_for("single_label")), tmp_path)
        found.append((prepared.classifier.model.state_dict(), torch.get_rng_state(), prepared))
    (plain, state, before), (same, same_state, after) = found
    assert plain.keys() == same.keys()
    assert all(torch.equal(plain[name], same[name]) for name in plain)
    assert torch.equal(state, same_state)
    assert [group.name for group in after.groups][: len(before.groups)] == [group.name for group in before.groups]
    assert {id(p) for p in after.groups[-1].parameters.values()} == {id(p) for p in after.objective.parameters()}
    settings = settings_for(home, seed=4, **STRATEGIES[strategy] | {"objective": "cdan", "data.unlabelled": str(file)})
    other = prepare(settings, load_corpus(settings.data, seed=0, data=data_for("single_label")), tmp_path)
    assert not torch.equal(next(after.objective.parameters()), next(other.objective.parameters()))


@pytest.mark.slow
def test_the_discriminator_learns_and_is_no_part_of_the_saved_model(home: Path, tmp_path: Path):
    file = texts_in(tmp_path / "target.csv")
    (tmp_path / "stopped").mkdir()
    values = {"objective": "dann", "data.unlabelled": str(file), "training.ema": 0.9, "evaluation.source_only": False}
    early, _ = stopped_run(tmp_path / "stopped", at=1, **values)
    tensors = checkpoint.read(early).tensors
    names = {name for name in tensors["model"] if name.startswith("objective.terms.dann.discriminator.")}
    assert len(names) == 4  # matrix and bias of two layers
    assert all(tensors["optimizer"][f"exp_avg/{name}"].any() for name in names)
    assert names < tensors["average"].keys()
    usual_settings = {"evaluation.floors": False, "training.epochs": 1} | STRATEGIES["finetune"]
    plain = adapt(settings_for(home, output=str(tmp_path / "plain"), **usual_settings), data=data_for("single_label"))
    run = adapted(home, tmp_path, "dann")
    saved, usual = (load_file(each.folder / "model" / "model.safetensors") for each in (run, plain))
    assert saved.keys() == usual.keys()
    assert {name: value.shape for name, value in saved.items()} == {name: value.shape for name, value in usual.items()}


@pytest.mark.slow
@pytest.mark.parametrize("term", ["dann", "mmd"])
def test_a_stopped_run_resumes_to_the_same_bits(tmp_path: Path, term: str):
    file = texts_in(tmp_path / "target.csv")
    values = {"objective": term, "data.unlabelled": str(file), "evaluation.source_only": False}
    resumed, plain = weights_of_a_stopped_run_and_another(tmp_path, **values)
    assert resumed == plain


def losses_of(running: Warm, folder: Path, processes: int, term: str) -> list[float]:
    """Return the losses of the run without other texts and of the one with them, in so many processes."""
    words = ["adapt", "data=files", f"data.path={folder}", "encoder=custom", "encoder.head_dropout=0"]
    words += [f"encoder.name={folder / 'tiny-bert'}", "strategy=finetune", "training.precision=fp32", "verify=false"]
    words += ["evaluation.floors=false", "report.write=false", "training.max_steps=6", "training.batch_size=8"]
    words += ["cache.gib=0", f"objective={term}", f"data.unlabelled={texts_in(folder / 'more.csv')}"]
    printed_by(running, [*words, f"output={folder / str(processes)}"], processes=processes)
    logs = sorted((folder / str(processes)).glob("*/metrics.jsonl"))
    rows = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Files of rows, and an encoder without dropout."""
    tiny_encoder(tmp_path, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    for split, part in data_for("single_label").items():
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, part)))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("term", [pytest.param("dann", marks=pytest.mark.exhaustive), "cdan"])
def test_two_processes_train_the_same_model_as_one(running: Warm, shared: Path, term: str):
    one, two = (losses_of(running, shared, processes, term) for processes in (1, 2))
    assert len(one) == 12
    assert two == pytest.approx(one, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "term", [*(pytest.param(term, marks=pytest.mark.exhaustive) for term in ("coral", "mmd")), "mcc"]
)
def test_two_processes_compare_what_each_of_them_reads(running: Warm, shared: Path, term: str):
    # Each has the moments of its own share of a step, so that losses differ from those of one process, but not by much.
    one, two = (losses_of(running, shared, processes, term) for processes in (1, 2))
    assert len(one) == 12
    assert two[:6] == pytest.approx(one[:6], rel=0.3)
    assert two[6:] == pytest.approx(one[6:], rel=1e-3)  # of the run without other texts


@pytest.mark.slow
@pytest.mark.parametrize("passes", [0, 1])
def test_the_domain_distance_is_reported_and_saved(home: Path, tmp_path: Path, passes: int):
    file = tmp_path / "films.csv"
    file.write_text("text\n" + "".join(f"hate a bad movie {letter}\n" for letter in "abcdefgh" * 6))
    values = {"data.unlabelled": str(file), "report.write": True, "pretraining.epochs": passes}
    run = adapted(home, tmp_path, "coral", **values)
    kept = json.loads((run.folder / "metrics.json").read_text())
    assert kept["domains"]["source"] == kept["domains"]["target"] == 48
    distance = kept["domains"]["a_distance"]
    assert distance == pytest.approx(2 * (1 - 2 * kept["domains"]["error"]))
    assert distance > 1
    message = [note for note in kept["report"]["notes"] if "proxy A-distance" in note]
    assert len(message) == 1
    assert f"{distance:.2f} (0: identical, 2: fully separable)" in message[0]
    notes = json.loads((run.folder / "plan.json").read_text())["notes"]
    assert message[0] in notes
    assert any("pretraining first" in note for note in notes) == bool(passes)
    for page in run.pages:
        assert "proxy A-distance" in page.read_text()
    other = file.read_text() + "one more\n"
    file.write_text(other)
    with pytest.raises(UserError, match="other unlabelled texts"):
        adapt(compose(str(run.folder / "config.yaml")), data=data_for("single_label"))


@pytest.mark.slow
def test_a_model_is_measured_again_without_the_texts_it_was_adapted_to(home: Path, tmp_path: Path):
    for split, part in data_for("single_label").items():
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, part)))
    (tmp_path / "beside").mkdir()
    file = texts_in(tmp_path / "beside" / "more.csv")
    values = {"data": "files", "data.path": str(tmp_path), "objective": "mcc", "data.unlabelled": str(file)}
    run = adapt(settings_for(home, output=str(tmp_path / "runs"), **values | {"evaluation.floors": False}))
    file.unlink()
    assert main(["evaluate", str(run.folder), "report.output=null"]) == 0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"strategy": "probe"}, "strategy=probe freezes"),
        ({"strategy": "probe", "strategy.solver": "adamw"}, "strategy=probe freezes"),
        (
            {"strategy.freeze": ["encoder.*"], "encoder.head": "pooled"},
            "nothing below the output layer",
        ),
        ({"data.unlabelled": None}, "adapts to the domain of texts without labels, and there are none"),
        ({"objective": "mmd", "training.batch_size": 2}, "training.batch_size=2 must be at least 4 for objective.mmd"),
        (
            {"objective": "mcc", "training.micro_batch_size": 2},
            "micro_batch_size=2 must be at least 4 for objective.mcc",
        ),
        ({"objective.coral.weight": -1}, "weight=-1"),
        ({"objective": "dann", "objective.dann.hidden": 0}, r"objective\.dann\.hidden=0"),
        ({"objective": "cdan", "objective.cdan.lr": 0}, r"objective\.cdan\.lr=0"),
        ({"objective": "mcc", "objective.mcc.temperature": 0}, r"objective\.mcc\.temperature=0"),
        ({"objective.coral.weight": 0}, "not read by this objective"),
        (
            {"objective.classify.weight": 0, "strategy.head_last": True, "training.keep": "last"},
            "minimal if all texts have the same features",
        ),
    ],
)
def test_impossible_settings_are_refused(home: Path, tmp_path: Path, values: dict, words: str):
    file = texts_in(tmp_path / "target.csv")
    expected = {"objective": "coral", "data.unlabelled": str(file)} | values
    with pytest.raises(UserError, match=words):
        adapt(settings_for(home, output=str(tmp_path / "runs"), **expected), data=data_for("single_label"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_the_source_only_run_is_a_baseline(home: Path, tmp_path: Path):
    values = {"evaluation.source_only": True, "pretraining.epochs": 1}
    run = adapted(home, tmp_path, "cdan", **values)
    (alone,) = (folder for folder in (tmp_path / "runs").iterdir() if folder != run.folder)
    assert "-source-only-" in alone.name
    own = (alone / "config.yaml").read_text()
    assert "cdan" not in own
    assert "target.csv" not in own
    assert not json.loads((alone / "metrics.json").read_text())["pretrained"]
    beside, model = (json.loads((each / "metrics.json").read_text())["report"]["rows"] for each in (alone, run.folder))
    rows = {row["name"]: row["intervals"] for row in model}
    for name, figure in beside[0]["intervals"].items():
        assert rows["source only"][name]["value"] == pytest.approx(figure["value"], abs=1e-3)
    assert "source only" in run.report.verdict
    assert any("predictions of a model that read none of them" in note for note in run.report.notes)
    before = load_file(alone / "model" / "model.safetensors")
    plain = {"objective": "classify", "data.unlabelled": None, "evaluation.source_only": True}
    (tmp_path / "usual").mkdir()
    usual = adapted(home, tmp_path / "usual", "coral", **plain)
    after = load_file(usual.folder / "model" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)  # the same bits as that run by itself


WAVERING, ELSEWHERE = "are less certain than without it", "no longer match the labels"


@pytest.mark.slow
def test_label_texts_belong_to_no_domain(home: Path, tmp_path: Path):
    run = adapted(home, tmp_path, "coral", **{"data.label_texts": ["{}"], "evaluation.source_only": True})
    plain = adapted(home, tmp_path, "coral", **{"training.epochs": 1})
    messages = [
        [note for note in json.loads((each.folder / "plan.json").read_text())["notes"] if "A-distance" in note]
        for each in (run, plain)
    ]
    assert messages[0] == messages[1] != []


def check_harm(message: list[str], harms: tuple[str, ...]) -> None:
    """Check that both figures are reported, and harm with the folder of the other model."""
    assert len(message) == 2 + bool(harms)
    for words in (WAVERING, ELSEWHERE):
        assert (words in message[-1]) == (words in harms)
    assert not harms or "is in runs/alone" in message[2]


def test_harmful_adaptation_is_reported():
    task = Task("single_label", ("a", "b"), False, None)
    sure = np.array([[9.0, 0.0], [0.0, 9.0]] * 50, np.float32)
    known = DomainFeatures(sure / 9, np.array([0, 1] * 50), sure / 9)
    beside = SourceOnly(Path("runs/alone"), Baseline("source only", sure), Texts(["x"] * 100, None), sure, known)
    settings, alike, flipped = EvaluationSettings(), abs(sure[:, :1]) * [1, 0], sure[:, ::-1]
    for answers, harms in ((sure, ()), (sure * 2, ()), (sure / 9, (WAVERING,)), (flipped, (ELSEWHERE,))):
        check_harm(beside.sentences(task, np.asarray(answers, np.float32), settings=settings, seed=0), harms)
    message = beside.sentences(task, np.asarray(alike, np.float32), settings=settings, seed=0)
    check_harm(message, (WAVERING, ELSEWHERE))
    assert beside.sentences(Task("regression", (), False, None), sure[:, :1], settings=settings, seed=0) == []


def test_uninformative_predictions_are_not_reported_as_harmed():
    task = Task("single_label", ("a", "b"), False, None)
    vague = np.array([[0.05, 0.0], [0.0, 0.05]] * 50, np.float32)
    known = DomainFeatures(vague, np.array([0, 1] * 50), vague)
    beside = SourceOnly(Path("runs/alone"), Baseline("source only", vague), Texts(["x"] * 100, None), vague, known)
    message = beside.sentences(task, vague / 2, settings=EvaluationSettings(), seed=0)
    assert "difference .000 [.000, .000]" in message[0]
    check_harm(message, ())


def test_a_named_checkpoint_is_not_the_run_without_texts(home: Path, tmp_path: Path):
    settings = settings_for(home, objective="coral", **{"data.unlabelled": "x.csv", "resume": "runs/a/checkpoints/b"})
    assert without_texts(settings).resume == "auto"
    assert without_texts(dataclasses.replace(settings, resume="never")).resume == "never"


@pytest.mark.slow
def test_a_resumed_run_does_not_repeat_the_source_only_run(home: Path, tmp_path: Path, monkeypatch):
    values = {"evaluation.source_only": True, "overwrite": True}
    measured = run.measure

    def killed(prepared, *others, **more):
        if prepared.corpus.unlabelled is not None:
            raise KeyboardInterrupt
        return measured(prepared, *others, **more)

    with monkeypatch.context() as patched:
        patched.setattr(run, "measure", killed)
        with pytest.raises(KeyboardInterrupt):
            adapted(home, tmp_path, "coral", **values)
    (alone,) = (tmp_path / "runs").glob("*-source-only-*")
    written = (alone / "metrics.json").stat().st_mtime_ns
    adapted(home, tmp_path, "coral", **values)
    assert (alone / "metrics.json").stat().st_mtime_ns == written
