"""Gains between tasks: comparisons, wording, and no repeated training."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from nlp_transfer.cli import main
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.intervals import Interval
from nlp_transfer.evaluation.metrics import compute
from nlp_transfer.multitask import beside
from nlp_transfer.multitask.beside import compare_with_alone
from nlp_transfer.multitask.outcome import TOGETHER, MultitaskGain, MultitaskOutcome, TaskResult
from nlp_transfer.multitask.show import render
from nlp_transfer.multitask.together import adapt_together
from nlp_transfer.predicting.predict import load_predictor
from tests.full_disk import refuse_to_hold
from tests.multitask.tasks import SILENT, make_task_set, write_task


def found(home: Path, words: list[str], **values) -> MultitaskOutcome:
    what = make_task_set(home, words, **values)
    return compare_with_alone(what, adapt_together(what, SILENT), SILENT)


@pytest.mark.parametrize(
    "strategy", [pytest.param("finetune", marks=pytest.mark.slow), pytest.param("probe", marks=pytest.mark.exhaustive)]
)
def test_differences_follow_from_the_figures_without_retraining(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
):
    words = [write_task(tmp_path), write_task(tmp_path, "regression")]
    values = {"output": str(tmp_path / "runs"), "strategy": strategy, "multitask.beside": "alone"}
    kept = {}
    with monkeypatch.context() as patch:
        patch.setattr(beside, "remove", lambda folder: kept.setdefault(folder.parent.name.rpartition("-")[0], folder))
        outcome = found(home, words, **values)
    what = make_task_set(home, words, **values)
    for member, task in zip(what.members, outcome.tasks, strict=True):
        test = member.corpus.splits["test"]
        both = []
        for folder in (task.folder, kept[member.name]):
            model = load_predictor(folder)
            logits = model.logits(test.texts, test.pairs)
            both.append(compute(model.record.task, logits, test.targets, test.weights)[task.metric])
        gain = outcome.gain(task.name, TOGETHER)
        assert gain is not None
        assert gain.difference.value == pytest.approx(both[0] - both[1], abs=1e-6)
        assert gain.difference.low <= gain.difference.value <= gain.difference.high
    assert outcome.matrix == {}
    again = found(home, words, **values)
    assert again.tasks == outcome.tasks
    monkeypatch.setattr(beside, "adapt", None)
    assert found(home, words, **values) == again
    assert json.loads((outcome.folder / "beside.json").read_text())["verdict"] == again.verdict


@pytest.mark.slow
def test_every_pair_is_trained_and_not_kept(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    words = [write_task(tmp_path, name=name, seed=seed) for seed, name in enumerate("abc")]
    values = {"output": str(tmp_path / "runs"), "multitask.beside": "pairs", "training.max_steps": 2}
    outcome = found(home, words, **values)
    assert {(one, other) for one, row in outcome.matrix.items() for other in row} == {
        (one, other) for one in "abc" for other in "abc" if one != other
    }
    assert len(list((outcome.folder / "pairs").iterdir())) == 3
    assert not list((outcome.folder / "pairs").rglob("model"))
    assert not list((outcome.folder / "alone").rglob("model"))
    assert all((task.folder / "model").is_dir() for task in outcome.tasks)
    monkeypatch.setattr(beside, "adapt", None)
    monkeypatch.setattr(beside, "adapt_together", None)
    assert found(home, words, **values) == outcome
    for task in outcome.tasks:
        assert np.isfinite([each.p for each in outcome.gains if each.task == task.name]).all()


def test_answers_are_named_once_they_are_on_disk(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (member, _) = make_task_set(home, [write_task(tmp_path), write_task(tmp_path, "regression")]).members
    rows = len(member.corpus.splits[member.corpus.reported_split])
    model = SimpleNamespace(record=SimpleNamespace(task=member.corpus.task), logits=lambda *_: np.eye(rows, 3))
    monkeypatch.setattr(beside, "load_predictor", lambda *_: model)
    (tmp_path / "model").mkdir()
    with monkeypatch.context() as patch:
        refuse_to_hold(patch, beside._ANSWERS)
        with pytest.raises(UserError, match="full"):
            beside._answers(member, tmp_path, save_answers=True)
    assert not list(tmp_path.glob(f"*{beside._ANSWERS}"))
    kept = beside._answers(member, tmp_path, save_answers=True)
    beside._remove_models(tmp_path)
    read = beside._answers(member, tmp_path)
    assert read.task == kept.task
    assert (read.logits == kept.logits).all()


@pytest.mark.slow
def test_with_two_tasks_the_pair_is_the_joint_run(home: Path, tmp_path: Path):
    words = [write_task(tmp_path, name=name, seed=seed) for seed, name in enumerate("ab")]
    outcome = found(
        home, words, output=str(tmp_path / "runs"), **{"multitask.beside": "pairs", "training.max_steps": 2}
    )
    assert not (outcome.folder / "pairs").exists()
    one, other = outcome.gain("a", TOGETHER), outcome.gain("a", "b")
    assert one is not None
    assert other is not None
    assert one.difference == other.difference


def test_the_table_names_the_pairs_that_hurt(capsys: pytest.CaptureFixture[str]):
    def gain(task: str, teacher: str, value: float, outcome: str) -> MultitaskGain:
        return MultitaskGain(task, teacher, Interval(value, value - 0.01, value + 0.01), 0.01, outcome)

    tasks = [
        TaskResult(name, Path("runs") / name, 1000, "test", "macro_f1", Interval(0.8, 0.78, 0.82), "") for name in "ab"
    ]
    gains = [
        gain("a", TOGETHER, 0.03, "better"),
        gain("b", TOGETHER, -0.001, "no evidence"),
        gain("b", "a", -0.05, "worse"),
        gain("a", "b", 0.02, "better"),
    ]
    outcome = MultitaskOutcome(Path("runs"), tasks, gains)
    assert outcome.verdict == [
        "a is better with all others: +.030 [+.020, +.040].",
        "Pairs that HURT: b with a (-.050 [-.060, -.040]).",
        "Pairs that help: a with b (+.020 [+.010, +.030]).",
        "One training of each: another seed may say otherwise.",
    ]
    render(outcome, Console(width=80, markup=False))
    shown = capsys.readouterr().out
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert "+.030 [+.020, +.040]" in shown
    assert "-.050" in shown
    assert outcome.matrix["a"]["b"].outcome == "worse"
    plain = MultitaskOutcome(Path("runs"), tasks)
    assert plain.verdict == []
    render(plain, Console(width=80, markup=False))
    assert "alone" not in capsys.readouterr().out


def test_comparisons_run_in_one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd):
    words = [write_task(tmp_path, name=name, seed=seed) for seed, name in enumerate("ab")]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert main(["multitask", *words, "multitask.beside=alone"]) == 2
    assert "runs in one process" in capfd.readouterr().err
