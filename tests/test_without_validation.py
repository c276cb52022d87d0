"""Runs without validation rows: nothing is chosen, and reports do not mention validation."""

import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from nlp_transfer.artefact.record import read_record
from nlp_transfer.config import compose
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.calibration import Calibration
from nlp_transfer.exporting import export as exporting
from nlp_transfer.ranking.rows import rows_of as ranked_rows
from nlp_transfer.running.measurement import evaluate
from nlp_transfer.running.run import Run, adapt
from nlp_transfer.settings import Settings
from nlp_transfer.terminal.console import Screen
from nlp_transfer.training import checkpoint
from tests.cells import cells
from tests.runs import STRATEGIES, data_for, digest, settings_for

PROBLEMS = ("single_label", "multi_label", "regression", "ordinal")


def rows(problem: str = "single_label") -> dict[str, list[dict[str, Any]]]:
    data = data_for(problem)
    del data["validation"]
    return data


def settings(home: Path, output: Path, problem: str = "single_label", strategy: str = "finetune", **values: Any) -> Any:
    given: dict[str, Any] = {
        "output": str(output),
        "data.validation_share": 0.0,
        "training.max_steps": 2,
        **STRATEGIES[strategy],
    }
    return settings_for(home, problem, **given | values)


def in_a_file(folder: Path, problem: str = "single_label") -> dict[str, Any]:
    """Write the rows into a file; return the values that name it."""
    path = folder / "data.jsonl"
    lines = [json.dumps(row | {"split": split}) for split, part in rows(problem).items() for row in part]
    path.write_text("\n".join(lines))
    return {"data": "files", "data.path": str(path)}


def logged(run: Run) -> list[dict[str, Any]]:
    path = run.folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def stored(run: Run) -> Settings:
    return compose(str(run.folder / "config.yaml"))


@pytest.mark.parametrize(("strategy", "problem"), cells(("finetune", "probe", "lora"), PROBLEMS))
def test_every_problem_is_learned_and_measured_again(home: Path, tmp_path: Path, strategy: str, problem: str) -> None:
    values = {"evaluation.floors": strategy == "probe", **in_a_file(tmp_path, problem)}
    runs = [adapt(settings(home, tmp_path, problem, strategy, seed=seed, **values)) for seed in (0, 1)]
    for run in runs:
        assert run.report.split == "test"
        assert not [line for line in logged(run) if "split" in line]
        plan = json.loads((run.folder / "plan.json").read_text())
        assert set(plan["examples"]) == {"train", "test"}
        assert any(note.startswith("validation: none (data.validation_share=0)") for note in plan["notes"])
        record = read_record(run.folder / "model")
        assert record.calibration == Calibration()
        assert record.task.threshold == 0.5
        result = json.loads((run.folder / "metrics.json").read_text())
        assert result["kept_step"] == result["steps"] == (0 if strategy == "probe" else 2)
        again = evaluate(run.folder, stored(run), stored(run))
        for ours, theirs in zip(again.rows, run.report.rows, strict=True):
            for name, interval in theirs.intervals.items():  # an adapter rounds otherwise where it is merged
                assert astuple(ours.intervals[name]) == pytest.approx(astuple(interval), rel=1e-4, nan_ok=True)
    if strategy != "probe":
        assert digest(runs[0]) != digest(runs[1])


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"training.keep": "last"}, marks=pytest.mark.slow),
        {"training.ema": 0.5},
    ],
    ids=["best", "last", "ema"],
)
def test_the_weights_are_those_after_the_last_step_wherever_it_was_stopped(
    home: Path, tmp_path: Path, values: dict[str, Any]
) -> None:
    values = {"training.max_steps": 4, "checkpoint.seconds": 0, "evaluation.floors": False, **values}
    whole = adapt(settings(home, tmp_path / "whole", **values), data=rows())
    commit = checkpoint.commit

    def die(folder: Path, snapshot: checkpoint.Snapshot) -> Path:
        path = commit(folder, snapshot)
        if snapshot.step == 3:
            raise KeyboardInterrupt
        return path

    stopped = settings(home, tmp_path / "stopped", **values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "commit", die)
        with pytest.raises(KeyboardInterrupt):
            adapt(stopped, data=rows())
    resumed = adapt(stopped, data=rows())
    assert [line["step"] for line in logged(resumed) if "loss" in line] == [1, 2, 3, 4]
    assert digest(resumed) == digest(whole)
    # Rows that choose nothing, for the last weights are kept and nothing is calibrated, change no bit.
    beside = values | {"training.keep": "last", "decision.calibrate": False}
    asked = adapt(settings(home, tmp_path / "asked", **beside), data=data_for("single_label"))
    ours, theirs = (load_file(run.folder / "model" / "model.safetensors") for run in (whole, asked))
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def test_frozen_layers_are_skipped_without_validation(home: Path, tmp_path: Path) -> None:
    values = {"strategy.freeze_layers": 1, "training.max_steps": 6, "evaluation.floors": False}
    run = adapt(settings(home, tmp_path, **values), data=rows())
    assert json.loads((run.folder / "metrics.json").read_text())["kept_step"] == 6


def test_pages_and_card_mention_no_validation_rows(home: Path, tmp_path: Path) -> None:
    values = {"report.write": True, "evaluation.floors": True, **in_a_file(tmp_path)}
    run = adapt(settings(home, tmp_path, **values))
    texts = [(run.folder / "report.md").read_text(), (run.folder / "model" / "README.md").read_text()]
    for text in texts:
        message = [line for line in text.splitlines() if "validation" in line]
        assert not [line for line in message if "validation: none" not in line and "validation_share" not in line], (
            message
        )
    assert "validation score" not in (run.folder / "report.html").read_text()
    assert "no temperature was fitted" in texts[1]


def test_there_are_no_rows_to_compare_an_export_on(home: Path, tmp_path: Path) -> None:
    run = adapt(settings(home, tmp_path, strategy="probe", **in_a_file(tmp_path)))
    rows, notes = exporting._rows(run.folder, stored(run), read_record(run.folder / "model"))
    assert rows is None
    assert "no validation rows" in notes[0]


@pytest.mark.slow
def test_an_export_is_compared_on_sentences(home: Path, tmp_path: Path) -> None:
    run = adapt(settings(home, tmp_path, **in_a_file(tmp_path)))
    done = exporting.export(run.folder, stored(run))
    assert done.fidelity.on == "sentences"
    assert done.fidelity.is_rounding
    assert done.notes == ["The run has no validation rows to compare on: a few fixed sentences are used."]


@pytest.mark.parametrize(
    ("words", "share"),
    [
        ([], None),
        (["decision.coverage=0.8"], 0.1),
        (["decision.unknown=0.2"], 0.1),
        (["decision.risk=0.2"], 0.1),
        (["decision.risk=0"], None),
        (["training.patience=2"], 0.1),
        (["decision.coverage=0"], None),
        (["decision.coverage=0.8", "data.validation_share=0.3"], 0.3),
        (["training.patience=2", "data.validation_share=0"], 0.0),
    ],
)
def test_settings_that_need_validation_rows_get_them(words: list[str], share: float | None) -> None:
    assert compose(None, words).data.validation_share == share


def test_a_run_with_validation_rows_is_split_the_same_later(home: Path, tmp_path: Path) -> None:
    values = {"data.validation_share": None, "decision.coverage": 0.5, "evaluation.floors": False}
    run = adapt(settings(home, tmp_path, **values, **in_a_file(tmp_path)))
    assert json.loads((run.folder / "plan.json").read_text())["examples"]["validation"] == 5
    undecided = compose(str(run.folder / "config.yaml"), ["decision.coverage=null"])
    assert not [note for note in evaluate(run.folder, stored(run), undecided).notes if "not what" in note]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"training.patience": 1}, "training.patience=1 waits for validation rows"),
        ({"decision.risk": 0.5}, "decision.risk=0.5 needs at least 9 validation rows, and there are 0: raise"),
        ({"decision.coverage": 0.5}, "decision.coverage=0.5 needs at least 1 validation rows, and there are 0"),
    ],
)
def test_settings_that_need_validation_rows_are_refused_without_them(
    home: Path, tmp_path: Path, values: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        adapt(settings(home, tmp_path / "runs", **values), data=rows())
    assert not (tmp_path / "runs").exists()


def test_a_ranking_reads_the_rows_that_it_always_did(home: Path, tmp_path: Path) -> None:
    quiet, shares = Screen(quiet=True), (None, 0.1, 0.0)
    usual, asked, whole = (
        ranked_rows(settings(home, tmp_path, **{"data.validation_share": share}), quiet, data=rows())
        for share in shares
    )
    assert usual.splits["train"].ids == asked.splits["train"].ids
    assert len(usual.splits["train"]) == 43
    assert len(whole.splits["train"]) == 48
