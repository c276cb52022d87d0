"""Runs that continue another one: kept outputs, all strategies, forgetting, and resuming to the same bits."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import nlp_transfer
from nlp_transfer.cli import main
from nlp_transfer.continual.anchoring import fisher, set_anchor
from nlp_transfer.continual.new_outputs import imprinted
from nlp_transfer.continual.rows import load
from nlp_transfer.encoder.anatomy import active_output
from nlp_transfer.encoder.vocabulary import occurring_words
from nlp_transfer.errors import UserError
from nlp_transfer.running.plan import plan_of
from nlp_transfer.running.preparation import prepare
from nlp_transfer.running.run import adapt
from tests.cells import cells
from tests.continual.tasks import continuing, old_run, rows_with_labels, write_rows
from tests.encoder.families import tiny_encoder
from tests.launched import printed_by
from tests.runs import STRATEGIES, data_for, rows, settings_for
from tests.stopped import weights_of_a_stopped_run_and_another
from tests.warm import Warm

EWC = {"objective": "anchor", "objective.anchor.kind": "ewc", "continual.replay": 6}


def _without_head(strategy: str) -> dict:
    return {key: value for key, value in STRATEGIES[strategy].items() if key != "encoder.head"}


def layer_of(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    tensors = load_file(folder / "model" / "model.safetensors")
    return tensors["classifier.weight"], tensors["classifier.bias"]


def test_new_outputs_start_at_the_means_of_their_classes_by_hand():
    features = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    shares = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    weights, biases = imprinted(features, shares, np.array([[3.0, 4.0], [0.0, 5.0]]), np.array([1.0, 3.0]))
    centre = np.array([1.0, 1.0])  # of the means (2, 0) and (0, 2)
    assert weights == pytest.approx(5 * np.array([[1.0, -1.0], [-1.0, 1.0]]) / np.sqrt(2))
    assert weights @ centre + biases == pytest.approx(np.full(2, (3 + 4 + 1 + 5 + 3) / 2))


def test_the_output_of_a_label_without_a_row_is_as_high_as_the_others_on_average():
    features, shares = np.array([[1.0, 0.0], [3.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 1.0]])
    weights, biases = imprinted(features, shares, np.array([[3.0, 4.0]]), np.array([1.0]))
    assert not weights.any()
    assert biases.tolist() == [7.0, 7.0]


@pytest.mark.parametrize("head", [pytest.param("pooled", marks=pytest.mark.slow), "native"])
def test_the_output_layer_starts_with_the_known_labels(home: Path, tmp_path: Path, head: str):
    folder = write_rows(home, {"card", "film"})
    values = {"data": "files", "data.path": str(folder), "encoder.head": head, "output": str(home / head)}
    old = adapt(settings_for(home, **values)).folder
    settings = continuing(home, old)
    prepared = prepare(settings, load(settings, data=rows_with_labels({"refund"})), tmp_path)
    classifier = prepared.classifier
    assert (classifier.head, classifier.known) == (head, 2)
    assert not plan_of(prepared, tmp_path).solves_head
    assert any("2 known labels" in note and "1 new label" in note for note in prepared.notes)
    layer = active_output(classifier.model)
    weight, bias = layer_of(old)
    assert torch.equal(layer.weight[:2], weight)
    assert torch.equal(layer.bias[:2], bias)
    assert layer.weight.shape[0] == 3
    saved = load_file(old / "model" / "model.safetensors")
    for name, parameter in classifier.model.named_parameters():
        if not name.startswith("classifier."):
            assert torch.equal(parameter, saved[name]), name


def test_with_the_same_labels_a_run_starts_as_the_model(home: Path, tmp_path: Path):
    old = old_run(home, {"card", "film"})
    settings = continuing(home, old, **{"training.max_steps": 1, "strategy.lr": 0.0, "decision.calibrate": False})
    new = adapt(settings, data=rows_with_labels({"card", "film"}))
    assert all(torch.equal(a, b) for a, b in zip(layer_of(old), layer_of(new.folder), strict=True))
    (found,) = json.loads((new.folder / "metrics.json").read_text())["continual"]["tasks"]
    assert found["before"] == found["after"]


@pytest.mark.parametrize(
    ("strategy", "problem"),
    [
        *cells(("finetune", "lora", "probe"), ("soft", "multi_label", "pair", "siamese", "chunk")),
        *cells(("probe adamw", "finetune refined", "lora top", "ia3"), ("single_label",)),
        *(pytest.param(each, "single_label", marks=pytest.mark.exhaustive) for each in ("finetune", "lora", "probe")),
    ],
)
def test_every_strategy_and_problem_continues_a_model(home: Path, tmp_path: Path, strategy: str, problem: str):
    old = old_run(home, {"card", "film"}, problem, strategy)
    later = rows_with_labels({"refund"}, problem)
    for values in ({}, {"continual.replay": 6}):
        run = adapt(continuing(home, old, problem, strategy, output=str(tmp_path / "runs"), **values), data=later)
        assert all(np.isfinite(value) for value in run.metrics.values())
        messages = json.loads((run.folder / "metrics.json").read_text())["continual"]
        assert 0 <= messages["tasks"][0]["after"] <= 1
        assert any(note.startswith("Earlier task") for note in run.report.notes)
        pairs = [row["text_pair"] for row in later["test"]] if "text_pair" in later["test"][0] else None
        answers = nlp_transfer.load(run.folder).predict([row["text"] for row in later["test"]], pairs)
        assert {"card", "film", "refund"} <= answers[0].probabilities.keys()


@pytest.mark.slow
def test_ordinal_labels_stay_and_no_new_ones_come(home: Path, tmp_path: Path):
    folder = home / "ordinal"
    folder.mkdir()
    for split, part in data_for("ordinal").items():
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, part)))
    old = adapt(settings_for(home, "ordinal", **{"data": "files", "data.path": str(folder)})).folder
    settings = continuing(home, old, "ordinal", output=str(tmp_path), **{"continual.replay": 6})
    later = {split: [row for row in part if row["label"] != "2"] for split, part in data_for("ordinal").items()}
    assert adapt(settings, data=later | {"train": later["train"][:20]}).report.notes
    with pytest.raises(UserError, match="has no place in the order"):
        adapt(settings, data={split: [row | {"label": "9"} for row in part] for split, part in later.items()})


@pytest.mark.parametrize(
    "values",
    [
        {"objective": "distill"},
        pytest.param({"objective": "distill", "continual.replay": 6}, marks=pytest.mark.slow),
        pytest.param({"objective": "anchor"}, marks=pytest.mark.slow),
        EWC,
        pytest.param({"objective": "contrast"}, marks=pytest.mark.slow),
        pytest.param({"objective": "distill", "strategy": "lora"}, marks=pytest.mark.slow),
        pytest.param({"objective": "distill", "strategy": "probe", "strategy.solver": "adamw"}, marks=pytest.mark.slow),
        pytest.param({"objective": "anchor"} | _without_head("finetune refined"), marks=pytest.mark.slow),
        pytest.param(EWC | {"strategy.freeze_layers": 1, "training.ema": 0.9}, marks=pytest.mark.slow),
        pytest.param(EWC | {"training.precision": "bf16"}, marks=pytest.mark.slow),
        EWC | {"strategy.freeze_layers": 1, "training.precision": "bf16"},
    ],
)
def test_distillation_keeps_earlier_labels(home: Path, tmp_path: Path, values: dict):
    old = old_run(home, {"card", "film"})
    run = adapt(continuing(home, old, output=str(tmp_path), **values), data=rows_with_labels({"refund"}))
    assert all(np.isfinite(value) for value in run.metrics.values())


def test_a_teacher_of_the_first_labels_teaches_only_these(home: Path, tmp_path: Path):
    old = old_run(home, {"card", "film"})
    settings = continuing(home, old, **{"objective": "distill"})
    corpus = load(settings, data=rows_with_labels({"refund"}))
    prepared = prepare(settings, corpus, tmp_path)
    teacher = prepared.columns["train"].teacher
    assert teacher.shape == (len(corpus.splits["train"]), 2)
    assert prepared.outputs("train")[:, :2] == pytest.approx(teacher, abs=1e-4)  # as it has learned nothing yet
    other = old_run(home, {"card", "refund"})
    settings = continuing(home, old, **{"objective": "distill", "objective.distill.teacher": str(other)})
    with pytest.raises(UserError, match="was adapted to another task"):
        prepare(settings, corpus, tmp_path)


def test_the_fisher_information_is_that_of_drawn_labels_by_hand(home: Path, tmp_path: Path):
    old = old_run(home, {"card", "film"})
    settings = continuing(home, old, **EWC)
    prepared = prepare(settings, load(settings, data=rows_with_labels({"refund"})), tmp_path)
    set_anchor(prepared)
    anchor = prepared.objective.terms["anchor"]
    found = fisher(prepared, anchor)
    assert [each.shape for each in found] == [each.shape for each in anchor.held.values()]
    assert sum(float(each.sum()) for each in found) / sum(each.numel() for each in found) == pytest.approx(1, rel=1e-4)
    # Of the biases of two outputs the slopes are as large, of either sign, whichever label is drawn.
    assert sum(each.shape == (2,) and each[0] > 0 and torch.allclose(each[0], each[1]) for each in found) == 1
    with torch.no_grad():  # of what is new nothing of it depends
        layer = active_output(prepared.classifier.model)
        layer.weight[2:] += 5.0
    assert all(torch.equal(a, b) for a, b in zip(fisher(prepared, anchor), found, strict=True))


@pytest.mark.parametrize("kind", ["l2sp", "ewc"])
def test_only_embeddings_of_occurring_words_are_anchored(home: Path, tmp_path: Path, kind: str):
    old = old_run(home, {"card", "film"})
    settings = continuing(home, old, **EWC | {"objective.anchor.kind": kind})
    prepared = prepare(settings, load(settings, data=rows_with_labels({"refund"})), tmp_path)
    anchor, table = prepared.objective.terms["anchor"], prepared.classifier.model.get_input_embeddings()
    place = next(n for n, each in enumerate(anchor.held.parameters) if each is table.weight)
    before, words = table.weight.detach().clone(), prepared.token_ids[: len(table.weight) // 2]
    with occurring_words(prepared.classifier.model, words):
        assert len(table.weight) == len(words) + 1
        anchor.hold([torch.ones_like(each) for each in anchor.held.values()] if kind == "ewc" else None)
        assert torch.equal(anchor.held.start[place], before[torch.from_numpy(words)])
        with torch.no_grad():
            table.weight[-1] *= 0.5  # as the words that do not occur decay
        assert float(anchor.held.pull()[0]) == 0
        outputs = SimpleNamespace(logits=torch.zeros(1, 3))
        with torch.no_grad():
            table.weight[0] += 1.0
        distance = anchor(outputs, {}, 0.0)
        assert distance.item() == pytest.approx(table.embedding_dim / 2, rel=1e-4)
        (slope,) = torch.autograd.grad(distance.sum(), table.weight)
        assert slope.shape == table.weight.shape
        assert slope[0] == pytest.approx(torch.ones(table.embedding_dim), rel=1e-4)
        assert not slope[1:].any()


def test_the_information_has_a_mean_of_one_over_what_is_held_where_words_are_set_aside(home: Path, tmp_path: Path):
    old = old_run(home, {"card", "film"})
    settings = continuing(home, old, **EWC)
    prepared = prepare(settings, load(settings, data=rows_with_labels({"refund"})), tmp_path)
    anchor, words = prepared.objective.terms["anchor"], prepared.token_ids
    table = prepared.classifier.model.get_input_embeddings()
    assert len(words) <= 0.75 * len(table.weight)
    with occurring_words(prepared.classifier.model, words):
        assert len(table.weight) == len(words) + 1
        found = fisher(prepared, anchor)
        assert [each.shape for each in found] == [each.shape for each in anchor.held.values()]
        assert sum(each.numel() for each in found if each.shape == (len(words), table.embedding_dim)) > 0
        assert torch.cat([each.flatten() for each in found]).mean() == pytest.approx(1, rel=1e-4)


@pytest.mark.slow
def test_a_stronger_anchor_leaves_weights_nearer_to_where_they_were(home: Path, tmp_path: Path):
    old = old_run(home, {"card", "film"})
    before = load_file(old / "model" / "model.safetensors")
    moved = []
    for weight in (0.0, 1.0, 1000.0):
        values = {"objective": "anchor", "objective.anchor.weight": weight, "training.keep": "last"}
        run = adapt(continuing(home, old, output=str(tmp_path), **values), data=rows_with_labels({"refund"}))
        after = load_file(run.folder / "model" / "model.safetensors")
        names = [name for name in before if name.startswith("encoder.")]
        moved.append(sum(float((after[name] - before[name]).square().sum()) for name in names))
    assert moved[0] > moved[1] > moved[2]


@pytest.mark.slow
def test_one_adapter_a_task_shares_its_encoder(home: Path, tmp_path: Path):
    common = STRATEGIES["lora"] | {"strategy.merge": False, "data": "files"}
    tasks = {name: write_rows(home, labels) for name, labels in (("a", {"card", "film"}), ("b", {"film", "refund"}))}
    runs, weights = {}, (home / "tiny-bert" / "model.safetensors").read_bytes()
    for name, folder in tasks.items():
        settings = settings_for(home, output=str(tmp_path / name), **common | {"data.path": str(folder)})
        runs[name] = adapt(settings)
    assert (home / "tiny-bert" / "model.safetensors").read_bytes() == weights
    for name, run in runs.items():
        assert not (run.folder / "model" / "model.safetensors").exists()
        assert set(nlp_transfer.load(run.folder).predict(["a film"])[0].probabilities) == (
            {"card", "film"} if name == "a" else {"film", "refund"}
        )


@pytest.mark.slow
def test_an_adapter_that_is_not_merged_holds_what_the_model_kept(home: Path, tmp_path: Path):
    old = old_run(home, {"card", "film"}, strategy="lora")
    settings = continuing(home, old, strategy="lora", output=str(tmp_path), **{"strategy.merge": False})
    run = adapt(settings, data=rows_with_labels({"refund"}))
    assert (run.folder / "model" / "adapter_config.json").is_file()
    texts = [row["text"] for row in data_for("single_label")["test"]]
    answers = nlp_transfer.load(run.folder).predict(texts)
    assert list(answers[0].probabilities) == ["card", "film", "refund"]


@pytest.mark.slow
def test_without_the_rows_forgetting_is_unknown(home: Path, tmp_path: Path):
    old = adapt(settings_for(home, output=str(tmp_path / "old")), data=rows_with_labels({"card", "film"})).folder
    run = adapt(continuing(home, old, output=str(tmp_path / "new")), data=rows_with_labels({"refund"}))
    assert any("is not known" in note and "continual.data" in note for note in run.report.notes)
    values = {"continual.data": str(write_rows(home, {"card", "film"}))}
    run = adapt(continuing(home, old, output=str(tmp_path / "new"), **values), data=rows_with_labels({"refund"}))
    assert run.report.notes[0].startswith("Earlier task rows-single_label-card-film (7 test rows): accuracy ")


@pytest.mark.slow
def test_the_command_line_continues_a_model_and_evaluates_it(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    old = old_run(home, {"card", "film"})
    words = [f"encoder={old}", "data=files", f"data.path={write_rows(home, {'refund'})}", f"output={tmp_path / 'runs'}"]
    words += ["continual.labels=all", "continual.replay=6", "strategy=finetune", "verify=false", "report.write=false"]
    words += ["evaluation.floors=false", "evaluation.resamples=20", "training.max_steps=4"]
    assert main(["plan", *words]) == 0
    assert main(["adapt", *words]) == 0
    made = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert any(note.startswith("Earlier task") for note in made["report"]["notes"])
    assert main(["evaluate", made["folder"]]) == 0
    assert main(["adapt", str(Path(made["folder"]) / "config.yaml")]) == 0  # which is read back
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["report"] == made["report"]


@pytest.mark.slow
@pytest.mark.parametrize("replay", [pytest.param(0, marks=pytest.mark.exhaustive), 6])
def test_a_finished_run_does_not_need_the_previous_one(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], replay: int
):
    values = {"data": "files", "data.path": str(write_rows(home, {"card", "film"})), "output": str(tmp_path / "old")}
    old = adapt(settings_for(home, **values)).folder
    later = tmp_path / "later"
    later.mkdir()
    for split, part in rows_with_labels({"refund"}).items():
        (later / f"{split}.jsonl").write_text("\n".join(map(json.dumps, part)))
    words = [f"encoder={old}", "data=files", f"data.path={later}", f"output={tmp_path / 'runs'}", "verify=false"]
    words += ["continual.labels=all", f"continual.replay={replay}", "strategy=finetune", "report.write=false"]
    words += ["evaluation.resamples=20", "training.max_steps=4"]

    def said(*asked: str) -> dict:
        capsys.readouterr()
        assert main([*asked]) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    made = said("adapt", *words)
    before = said("evaluate", made["folder"])["report"]
    old.rename(tmp_path / "gone")
    after = said("evaluate", made["folder"])["report"]
    assert after["rows"][0] == before["rows"][0]
    messages = any("replayed" in note and "cannot be read" in note for note in after["notes"])
    assert (messages, len(after["rows"]) == 1) == ((True, True) if replay else (False, False))
    other = said("evaluate", made["folder"], f"data.path={later / 'test.jsonl'}")["report"]
    assert (len(other["rows"]) == 1) == bool(replay)
    assert main(["adapt", str(Path(made["folder"]) / "config.yaml")]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out.splitlines()[-1])["report"] == made["report"]
    assert "not compared" in captured.err
    assert main(["adapt", *words, "seed=7"]) == 2  # of which there is no run
    changed = rows_with_labels({"refund"})["train"][1:]
    (later / "train.jsonl").write_text("\n".join(map(json.dumps, changed)))
    if not replay:
        assert main(["adapt", str(Path(made["folder"]) / "config.yaml")]) == 2
        notes = said("evaluate", made["folder"])["report"]["notes"]
        assert any("is not what the model was trained on" in note for note in notes)
    (later / "train.jsonl").unlink()
    assert main(["evaluate", made["folder"]]) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [
        *(EWC, {"objective": "distill", "continual.replay": 6}),
        pytest.param({"strategy": "lora"}, marks=pytest.mark.exhaustive),
    ],
)
def test_a_stopped_run_resumes_to_the_same_bits(home: Path, tmp_path: Path, values: dict):
    for split, seed in (("train", 7), ("test", 8)):  # other rows than those that the run learns from
        kept = [row for row in rows("single_label", 48, seed) if row["label"] != "refund"]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, kept)))
    old = adapt(settings_for(home, output=str(tmp_path), **{"data": "files", "data.path": str(tmp_path)})).folder
    own = {"encoder.name": str(old), "continual.labels": "all"}
    resumed, plain = weights_of_a_stopped_run_and_another(tmp_path, **own | values)
    assert resumed == plain


@pytest.mark.slow
def test_two_processes_train_the_same_model_as_one(running: Warm, tmp_path: Path):
    tiny_encoder(tmp_path, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    common = {"encoder.head": "pooled", "encoder.head_dropout": 0, "data": "files"}
    folder = write_rows(tmp_path, {"card", "film"})
    old = adapt(settings_for(tmp_path, **common | {"data.path": str(folder)})).folder
    words = ["adapt", f"encoder={old}", "data=files", f"data.path={write_rows(tmp_path, {'refund'})}", "verify=false"]
    words += ["strategy=finetune", "training.precision=fp32", "evaluation.floors=false", "report.write=false"]
    words += ["training.max_steps=6", "training.batch_size=8", "cache.gib=0", "continual.labels=all"]
    words += ["continual.replay=6", "objective=anchor", "objective.anchor.kind=ewc", "objective.anchor.weight=10"]
    found = []
    for processes in (1, 2):
        printed_by(running, [*words, f"output={tmp_path / str(processes)}"], processes=processes)
        (run,) = (tmp_path / str(processes)).iterdir()
        log = (run / "metrics.jsonl").read_text().splitlines()
        losses = [row["loss"] for row in map(json.loads, log) if "loss" in row]
        found.append((losses, json.loads((run / "metrics.json").read_text())["continual"]))
    assert len(found[0][0]) == 6
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-3)
    assert found[1][1] == found[0][1]
