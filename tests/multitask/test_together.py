"""Several tasks in one training: each gets the run folder of a run of its own."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import nlp_transfer
from nlp_transfer.artefact.record import read_record
from nlp_transfer.cli import main
from nlp_transfer.config import compose, run_id
from nlp_transfer.continual.rows import load
from nlp_transfer.errors import UserError
from nlp_transfer.multitask import together as together_module
from nlp_transfer.multitask.task_set import read_tasks
from nlp_transfer.multitask.together import as_long_as_alone
from nlp_transfer.objectives.objective import Step
from nlp_transfer.running.run import adapt
from nlp_transfer.settings import TrainingSettings
from nlp_transfer.training import inference, length
from nlp_transfer.training.length import planned_steps
from nlp_transfer.training.signals import Stopped
from tests.cells import cells
from tests.encoder.families import tiny_encoder
from tests.launched import printed_by
from tests.multitask.tasks import KINDS, SILENT, make_task_set, together, write_task
from tests.runs import STRATEGIES, rows
from tests.warm import Warm

LEARNING = {"finetune": {}, "lora": STRATEGIES["lora"], "probe": {"strategy": "probe"}}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize(
    "strategy",
    [
        "probe",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("finetune", "lora")),
        *(pytest.param(name, marks=pytest.mark.exhaustive) for name in STRATEGIES if name not in LEARNING),
    ],
)
def test_tasks_of_every_kind_share_an_encoder(home: Path, tmp_path: Path, strategy: str):
    words = [write_task(tmp_path, kind) for kind in KINDS]
    outcome = together(home, words, output=str(tmp_path / "runs"), **LEARNING.get(strategy) or STRATEGIES[strategy])
    assert [task.name for task in outcome.tasks] == list(KINDS)
    for task, kind in zip(outcome.tasks, KINDS, strict=True):
        assert np.isfinite(task.together.value)
        record = read_record(task.folder / "model")
        assert record.task.problem == {"soft": "single_label"}.get(kind, kind)
        test = rows(kind, 16, 3)
        answers = nlp_transfer.load(task.folder).predict([row["text"] for row in test])
        assert len(answers) == len(test)
        if kind == "single_label":  # the saved model answers as the one that was measured
            right = np.mean([answer.label == row["label"] for answer, row in zip(answers, test, strict=True)])
            figures = json.loads((task.folder / "metrics.json").read_text())["report"]["rows"][0]["intervals"]
            assert right == pytest.approx(figures["accuracy"]["value"])
    # Whatever the tokenizer that they share was make_task_set to do between them.
    assert len({(task.folder / "model" / "tokenizer.json").read_bytes() for task in outcome.tasks}) == 1
    kept = [weights(task.folder) for task in outcome.tasks]
    if strategy != "probe":  # of which each may read layers of its own
        inner = {name for name in kept[0] if name.startswith(("encoder.", "bert."))}
        assert inner
        assert all(torch.equal(each[name], kept[0][name]) for each in kept for name in inner)


@pytest.mark.parametrize(("problem", "strategy"), cells(("pair", "siamese", "chunk"), ("finetune", "probe")))
def test_texts_are_read_as_in_a_run_of_one_task(home: Path, tmp_path: Path, problem: str, strategy: str):
    words = [write_task(tmp_path, problem, name, seed=seed) for seed, name in enumerate("ab")]
    values = {"chunk": {"tokens.long": "chunk", "tokens.max_length": 24}, "siamese": {"encoder.pairs": "siamese"}}
    outcome = together(home, words, output=str(tmp_path / "r"), strategy=strategy, **values.get(problem, {}))
    assert all(np.isfinite(task.together.value) for task in outcome.tasks)


@pytest.mark.slow
def test_a_head_on_a_frozen_encoder_equals_that_of_a_single_run(home: Path, tmp_path: Path):
    words = [write_task(tmp_path, kind) for kind in ("single_label", "multi_label")]
    values = {"strategy": "probe", "output": str(tmp_path / "runs"), "tokens.max_length": 16}
    both = make_task_set(home, words, **values)
    outcome = together(home, words, **values)
    for member, task in zip(both.members, outcome.tasks, strict=True):
        alone = adapt(member.settings, corpus=member.corpus)
        own, theirs = weights(task.folder), weights(alone.folder)
        assert own.keys() == theirs.keys()
        for name, tensor in theirs.items():
            torch.testing.assert_close(own[name], tensor, rtol=1e-3, atol=1e-3)
        assert task.together.value == pytest.approx(alone.metrics[task.metric], abs=1e-6)


def test_columns_of_one_file_are_split_equally_and_read_once(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "rows.jsonl"
    made = [
        row | {"topic": row["label"], "letter": (row["text"][-1] in "abcd" and "early") or "late"}
        for row in rows("single_label", 80, 1)
    ]
    for row in made:
        del row["label"]
    file.write_text("\n".join(map(json.dumps, made)))
    read, run = [], inference.run

    def counting(accelerator, model, columns, **options):
        read.extend([len(columns)] * (columns.features is None))
        return run(accelerator, model, columns, **options)

    monkeypatch.setattr(inference, "run", counting)
    values = {"multitask.columns": ["topic", "letter"], "strategy": "probe", "output": str(tmp_path / "runs")}
    outcome = together(home, [str(file)], **values, **{"cache.gib": 0})
    assert [task.name for task in outcome.tasks] == ["topic", "letter"]
    both = make_task_set(home, [str(file)], **values)
    one, other = (member.corpus for member in both.members)
    assert {split: part.texts for split, part in one.splits.items()} == {
        split: part.texts for split, part in other.splits.items()
    }
    assert sum(read) == len({row["text"] for row in made})
    config = outcome.tasks[1].folder / "config.yaml"
    assert compose(str(config)).data.columns.label == "letter"
    with pytest.raises(UserError, match="nlp-transfer multitask"):
        adapt(compose(str(config)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entries", "values"),
    [
        ([], {"multitask.columns": ["topic", "letter"]}),
        (["data.columns.label=topic", "data.columns.label=letter"], {"data.train_limit": 40}),
        pytest.param(
            *(["data.columns.label=topic", "data.columns.label=size data.problem=ordinal"], {}),
            marks=pytest.mark.exhaustive,
        ),
        (["", "data.columns.label=size data.problem=ordinal"], {"data.columns.label": "topic"}),
    ],
)
def test_the_split_of_a_label_column_is_reproducible(
    home: Path, tmp_path: Path, entries: list[str], values: dict, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "rows.jsonl"
    made = rows("single_label", 120, 1)
    for number, row in enumerate(made):
        row |= {"text": f"{row['text']} {number}", "topic": row.pop("label")}
        row |= {"letter": "xxxyz"[number % 5], "size": number % 4 + 1}
    file.write_text("\n".join(map(json.dumps, made)))
    words = [f"{file} {words}".strip() for words in entries] or [str(file)]
    outcome = together(home, words, output=str(tmp_path / "runs"), strategy="probe", **values)
    for task in outcome.tasks:
        config = str(task.folder / "config.yaml")
        assert load(compose(config)).fingerprint == read_record(task.folder / "model").data["fingerprint"]
        capsys.readouterr()
        assert main(["evaluate", str(task.folder)]) == 0
        notes = json.loads(capsys.readouterr().out)["report"]["notes"]
        assert not [note for note in notes if "not what the model was trained on" in note]
    again = read_tasks(str(outcome.folder / "config.yaml"), [], SILENT)
    assert together_module.adapt_together(again, SILENT) == outcome


def test_all_plans_use_the_batch_size_of_the_largest_task(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(length, "_MANY", 24)
    few = f"{write_task(tmp_path, 'regression')} data.train_limit=20"
    values = {"training.batch_size": None, "training.epochs": 1, "output": str(tmp_path / "runs")}
    outcome = together(home, [write_task(tmp_path), few], **values)
    folders = [outcome.folder, *(task.folder for task in outcome.tasks)]
    assert [json.loads((folder / "plan.json").read_text())["batch_size"] for folder in folders] == [32, 32, 32]


@pytest.mark.slow
def test_finished_tasks_are_read_back(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    words, values = [write_task(tmp_path), write_task(tmp_path, "regression")], {"output": str(tmp_path / "runs")}
    outcome = together(home, words, **values)
    notes = json.loads((outcome.tasks[0].folder / "plan.json").read_text())["notes"]
    assert "learned together with 1 other task: regression" in notes
    monkeypatch.setattr(together_module, "prepare", None)
    assert together(home, words, **values) == outcome
    again = read_tasks(str(outcome.folder / "config.yaml"), [], SILENT)
    assert together_module.adapt_together(again, SILENT) == outcome
    task = read_tasks(str(outcome.tasks[0].folder / "config.yaml"), [f"output={tmp_path / 'runs'}"], SILENT)
    assert [member.name for member in task.members] == ["single_label", "regression"]
    with pytest.raises(
        UserError, match=rf"is of one of several tasks, .* name {outcome.folder}/config.yaml, or set out"
    ):
        read_tasks(str(outcome.tasks[0].folder / "config.yaml"), [], SILENT)
    with pytest.raises(TypeError, match="not callable"):
        together(home, words, **values | {"multitask.sampling": "uniform"})
    with pytest.raises(TypeError, match="not callable"):
        together(home, [*words[:1], write_task(tmp_path, "ordinal")], **values)
    (tmp_path / "regression" / "train.jsonl").write_text("\n".join(map(json.dumps, rows("regression", 24, 99))))
    with pytest.raises(UserError, match="other data"):
        together(home, words, **values)


@pytest.mark.slow
def test_a_run_finished_by_another_process_is_read_back(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    words, values = [write_task(tmp_path), write_task(tmp_path, "regression")], {"output": str(tmp_path / "runs")}
    prepared, ended = together_module.prepare, []

    def meanwhile(*given, **named):
        monkeypatch.setattr(together_module, "prepare", prepared)
        ended.append(together(home, words, **values))
        return prepared(*given, **named)

    monkeypatch.setattr(together_module, "prepare", meanwhile)
    assert together(home, words, **values) == ended[0]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, None])
@pytest.mark.parametrize("balance", [pytest.param("none", marks=pytest.mark.exhaustive), "uncertainty"])
def test_a_stopped_run_resumes_to_the_same_bits(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None, balance: str
):
    words = [write_task(tmp_path), write_task(tmp_path, "regression")]
    values = {"checkpoint.seconds": 0, "multitask.balance": balance, "cache.gib": 0}
    plain = together(home, words, output=str(tmp_path / "plain"), **values)
    forward, seen = Step.forward, []

    def stopping(self: Step, batch: dict, progress: float) -> torch.Tensor:
        seen.append(progress)
        if len(seen) == 4:
            if number is None:
                raise KeyboardInterrupt
            os.kill(os.getpid(), number)
        return forward(self, batch, progress)

    with monkeypatch.context() as patch:
        patch.setattr(Step, "forward", stopping)
        with pytest.raises(Stopped if number else KeyboardInterrupt):
            together(home, words, output=str(tmp_path / "parts"), **values)
    resumed = together(home, words, output=str(tmp_path / "parts"), **values)
    assert not (resumed.folder / "checkpoints").exists()
    for one, other in zip(plain.tasks, resumed.tasks, strict=True):
        assert same(one.folder, other.folder)
        assert one.together == other.together


@pytest.mark.slow
def test_a_task_that_is_finished_is_not_measured_again(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    words, values = [write_task(tmp_path, name=name, seed=seed) for seed, name in enumerate("ab")], {}
    values = {"output": str(tmp_path / "runs"), "checkpoint.seconds": 0}
    save_and_evaluate, done = together_module.save_and_evaluate, []

    def once(trained, *rest, **more):
        if done:
            raise KeyboardInterrupt
        done.append(trained.prepared.settings.name)
        return save_and_evaluate(trained, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(together_module, "save_and_evaluate", once)
        with pytest.raises(KeyboardInterrupt):
            together(home, words, **values)
    finished = next(tmp_path.glob("runs/*/a-*/metrics.json")).stat().st_mtime_ns

    def noting(trained, *rest, **more):
        done.append(trained.prepared.settings.name)
        return save_and_evaluate(trained, *rest, **more)

    monkeypatch.setattr(together_module, "save_and_evaluate", noting)
    outcome = together(home, words, **values)
    assert done == ["a", "b"]
    assert (outcome.tasks[0].folder / "metrics.json").stat().st_mtime_ns == finished
    fresh = together(home, words, **values | {"output": str(tmp_path / "fresh")})
    assert all(same(one.folder, other.folder) for one, other in zip(outcome.tasks, fresh.tasks, strict=True))


@pytest.mark.slow
def test_a_task_finished_with_other_rows_is_repeated(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    words = [write_task(tmp_path, name=name, seed=seed) for seed, name in enumerate("ab")]
    part = together_module._trained_part

    def killed(joint, trained, number, *rest):
        if number:
            raise KeyboardInterrupt
        return part(joint, trained, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(together_module, "_trained_part", killed)
        with pytest.raises(KeyboardInterrupt):
            together(home, words, output=str(tmp_path / "runs"))
    before = weights(next(tmp_path.glob("runs/*/a-*/metrics.json")).parent)
    (tmp_path / "b" / "train.jsonl").write_text("\n".join(map(json.dumps, rows("single_label", 24, 99))))
    outcome = together(home, words, output=str(tmp_path / "runs"))
    fresh = together(home, words, output=str(tmp_path / "fresh"))
    assert all(same(one.folder, other.folder) for one, other in zip(outcome.tasks, fresh.tasks, strict=True))
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(outcome.tasks[0].folder).items())


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["finetune", pytest.param("probe", marks=pytest.mark.exhaustive)])
def test_two_processes_train_the_same_model_as_one(running: Warm, tmp_path: Path, strategy: str):
    folder = tiny_encoder(tmp_path, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    words = ["multitask", write_task(tmp_path), write_task(tmp_path, "regression"), f"encoder={folder}"]
    words += ["encoder.head_dropout=0", f"strategy={strategy}", "training.precision=fp32", "evaluation.floors=false"]
    words += ["report.write=false", "training.max_steps=6", "training.batch_size=8", "cache.gib=0", "verify=false"]
    words += ["encoder.head=pooled"] + ["multitask.balance=uncertainty"] * (strategy == "finetune")
    found = []
    for processes in (1, 2):
        out = printed_by(running, [*words, f"output={tmp_path / str(processes)}"], processes=processes)
        tasks = json.loads(out)["tasks"]
        found.append([weights(Path(task["folder"])) for task in tasks])
    for one, other in zip(*found, strict=True):
        for name, tensor in one.items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=1e-3)


def test_the_command_prints_all_folders(home: Path, tmp_path: Path, capfd):
    words = [write_task(tmp_path, "ordinal"), write_task(tmp_path, name="other", seed=3)]
    own = [f"encoder={home / 'tiny-bert'}", "training.max_steps=2", f"output={tmp_path / 'runs'}", "strategy=finetune"]
    own += ["evaluation.resamples=20", "verify=false", "report.write=false", "evaluation.floors=false"]
    assert main(["multitask", *words, *own]) == 0
    messages = json.loads(capfd.readouterr().out)
    assert [task["name"] for task in messages["tasks"]] == ["ordinal", "other"]
    for task in messages["tasks"]:
        assert Path(task["folder"], "model", "model.safetensors").is_file()
        card = Path(task["folder"], "model", "README.md").read_text()
        assert str(tmp_path) not in card
        assert "nlp-transfer multitask 'ordinal data.problem=ordinal' other strategy=finetune" in card
    assert main(["evaluate", messages["tasks"][0]["folder"]]) == 0


def test_settings_without_tasks_give_the_same_run():
    assert run_id(compose(None, ["multitask.sampling=uniform"])) == run_id(compose())
    assert run_id(compose(None, ["multitask.tasks=[a,b]"])) != run_id(compose())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"multitask.sampling": "evenly"}, r"multitask\.sampling='evenly' is not known"),
        ({"multitask.balance": "gradients"}, r"multitask\.balance='gradients' is not known"),
        ({"multitask.beside": "all"}, r"multitask\.beside='all' is not known"),
        ({"multitask.temperature": 0.5}, r"multitask\.temperature=0\.5 must be at least 1"),
        ({"multitask.balance": "uncertainty", "strategy": "probe"}, "an exact probe takes none"),
        ({"objective": "contrast"}, r"objective\.contrast is a term of one task"),
        ({"objective.classify.weight": 2}, r"objective\.classify\.weight=2"),
        ({"pretraining.epochs": 1}, r"pretraining\.epochs=1 is for a run of one task"),
        ({"continual.labels": "all"}, "continual continues a model of one task"),
        ({"continual.replay": 9}, "continual continues a model of one task"),
        ({"data.label_texts": ["{}"]}, r"data\.label_texts is for a run of one task"),
        ({"data.unlabelled": "x.csv"}, r"data\.unlabelled is for a run of one task"),
        ({"strategy": "auto", "strategy.minutes": 3}, r"strategy\.minutes=3"),
        ({"hub.push": True}, "push the folder of each task"),
        ({"multitask.columns": ["a", "b"]}, "label columns of one file; 2 are given"),
        ({"data": "hub", "data.hub": "a/b"}, "reads files and folders"),
        ({"evaluation.metric": "pearson"}, "the task 'single_label': evaluation.metric='pearson'"),
        ({"strategy.lr": -1}, r"^strategy\.lr=-1"),
    ],
)
def test_impossible_settings_are_refused(home: Path, tmp_path: Path, values: dict, message: str):
    words = [write_task(tmp_path), write_task(tmp_path, "regression")]
    with pytest.raises(UserError, match=message):
        together(home, words, output=str(tmp_path / "runs"), **values)
    assert not (tmp_path / "runs").exists()


def test_tasks_that_do_not_go_together_are_refused(home: Path, tmp_path: Path):
    one, pair = write_task(tmp_path), write_task(tmp_path, "pair")
    for words, message in (
        ([one], "two tasks or more"),
        ([one, write_task(tmp_path / "b")], "two tasks would be called 'single_label'"),
        ([one, pair], "'pair' is of pairs of texts"),
        ([one, "nowhere.csv"], "the task 'nowhere': .*nowhere.csv"),
        ([one, f"{pair} strategy.lr=1"], "'strategy.lr=1' in .* applies to all tasks"),
        ([one, f"{pair} data.label_texts=[]"], r"'data\.label_texts=\[\]' in .* is for a run of one task"),
        ([one, f"{pair} data.problm=x"], "data.problm"),
    ):
        with pytest.raises(UserError, match=message):
            together(home, words, output=str(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_keys_that_apply_to_all_tasks_are_refused_for_one(tmp_path: Path, capfd):
    one, other = write_task(tmp_path), write_task(tmp_path, "regression")
    for word in ("strategy.lr=1", "+strategy.lr=1"):
        assert main(["multitask", f"{one} {word}", other]) == 2
        assert f"'{word}' in" in capfd.readouterr().err


def test_each_task_takes_as_many_steps_as_alone():
    usual = TrainingSettings()
    for counts, size in (([40, 60], 16), ([4000, 4000], 16), ([40, 8000], 32), ([5000], 32)):
        alone = sum(planned_steps(each, TrainingSettings(batch_size=size)) for each in counts)
        together = as_long_as_alone(usual, counts)
        assert (planned_steps(sum(counts), together), together.batch_size) == (alone, size)
    longer = TrainingSettings(epochs=1)
    assert as_long_as_alone(longer, [4000, 4000]) == TrainingSettings(epochs=1, batch_size=16)
    few = TrainingSettings(max_steps=3)
    assert planned_steps(100, as_long_as_alone(few, [40, 60])) == 3
