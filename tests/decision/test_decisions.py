"""How outputs become labels is one thing for the run, its folder, files, exports and everybody's transformers."""

import csv
import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest
from transformers import pipeline

import nlp_transfer
from nlp_transfer.artefact.folder import RECORD
from nlp_transfer.artefact.record import read_record
from nlp_transfer.cli import main
from nlp_transfer.config import compose
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.calibration import Calibration, calibrate
from nlp_transfer.exporting.export import export
from nlp_transfer.predicting.exported import Exported
from nlp_transfer.predicting.predict import Predictor, predict_file
from nlp_transfer.running.measurement import evaluate
from nlp_transfer.running.run import adapt
from nlp_transfer.settings import ColumnSettings, DecisionSettings
from nlp_transfer.verb_settings import PredictSettings
from tests.cells import cells
from tests.encoder.families import tiny_encoder
from tests.place import adapt_words, furnish
from tests.runs import STRATEGIES, data_for, rows, settings_for

pytestmark = pytest.mark.slow

CAREFUL = 0.9
BROKEN = (
    *(1.0, {}, {"temperature": 0}, {"temperature": 10**400}, {"temperature": 1, "shifts": [1.0]}),
    *({"temperature": 1, "shifts": shifts} for shifts in ({}, "123", [1, 2, "3"], [1, 2, None])),
)


def run_for(home: Path, problem: str = "single_label", **values):
    words = {"evaluation.floors": False, "cache.gib": 0} | STRATEGIES["probe"] | values
    return adapt(settings_for(home, problem, **words), data=data_for(problem))


@pytest.mark.parametrize(
    "strategy",
    [
        *("probe", "finetune", "lora"),
        *(
            pytest.param(each, marks=pytest.mark.exhaustive)
            for each in ("probe adamw", "finetune refined", "lora top", "ia3")
        ),
    ],
)
def test_calibration_is_folded_into_the_output_layer(home: Path, tmp_path: Path, strategy: str):
    made = {
        calibrate: run_for(home, output=str(tmp_path), **STRATEGIES[strategy] | {"decision.calibrate": calibrate})
        for calibrate in (False, True)
    }
    texts = [row["text"] for row in rows("single_label", 30, 7)]
    plain, scaled = (made[calibrate].predictor for calibrate in (False, True))
    found = scaled.record.calibration
    assert plain.record.calibration == Calibration() != found
    np.testing.assert_allclose(found.undo(scaled.logits(texts)), plain.logits(texts), rtol=1e-4, atol=1e-4)
    if not found.shifts:
        assert [each.label for each in scaled.predict(texts)] == [each.label for each in plain.predict(texts)]
    validation = data_for("single_label")["validation"]
    targets = plain.record.task.encode([row["label"] for row in validation], str)
    logits = plain.logits([row["text"] for row in validation])
    own = calibrate(plain.record.task, logits, targets, np.ones(len(targets)), metric="macro_f1")
    assert [found.temperature, *found.shifts] == pytest.approx([own.temperature, *own.shifts], rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("strategy", ["probe", "lora"])
def test_predicted_class_frequencies_follow_validation(home: Path, tmp_path: Path, strategy: str):
    """As many rows of each teach; of those that the model meets nine in ten are of one label, and some are unclear."""
    rng = random.Random(0)
    data = data_for("single_label")
    first, second, *_ = sorted({row["label"] for row in data["train"]})
    known = {name: [row["text"] for row in data["train"] if row["label"] == name] for name in (first, second)}
    unclear = [" ".join(texts) for texts in zip(known[first], known[second], strict=False)]
    train = [{"text": text, "label": name} for name in known for text in known[name][:40] + unclear[:20]]
    met = [{"text": rng.choice(unclear), "label": first if rng.random() < 0.9 else second} for _ in range(200)]
    data = {"train": train, "validation": met[:100], "test": met[100:]}
    words = {"output": str(tmp_path), "evaluation.floors": True, "cache.gib": 0} | STRATEGIES[strategy]
    run = adapt(settings_for(home, "single_label", **words | {"evaluation.metric": "accuracy"}), data=data)
    assert run.predictor.record.calibration.shifts
    assert run.metrics["accuracy"] > 0.8
    (note,) = [each for each in run.report.notes if each.startswith("Without calibration:")]
    assert "shifts of" in note
    assert "accuracy" in note
    # The baselines are calibrated on the same rows, so that this gain is not attributed to the encoder.
    majority = next(row for row in run.report.rows if row.name == "majority")
    assert majority.intervals["accuracy"].value > 0.8
    answers = run.predict([row["text"] for row in data["test"]])  # of the folder
    right = [row["label"] == each.label for row, each in zip(data["test"], answers, strict=True)]
    assert np.mean(right) == pytest.approx(run.metrics["accuracy"])


def test_an_output_layer_without_bias_gets_no_shifts(tmp_path: Path):
    tiny_encoder(tmp_path, "gpt2")
    words = {"encoder.name": str(tmp_path / "tiny-gpt2"), "encoder.head": "native", "evaluation.floors": False}
    data = data_for("single_label")
    first = data["train"][0]["label"]
    met = [row | {"label": first} for row in data["validation"]]
    settings = settings_for(tmp_path, **STRATEGIES["finetune"] | words)
    run = adapt(settings, data=data | {"validation": met})
    assert run.predictor.record.calibration.temperature != 1
    assert not run.predictor.record.calibration.shifts


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "ordinal"])
def test_plain_transformers_gives_calibrated_probabilities(home: Path, problem: str):
    run = run_for(home, problem, **STRATEGIES["finetune"] | {"encoder.head": "native"})
    assert json.loads((run.folder / "model" / RECORD).read_text())["calibration"]["temperature"] != 1
    texts = [row["text"] for row in rows(problem, 8, 9)]
    theirs = pipeline("text-classification", str(run.folder / "model"), top_k=None)(texts)
    for each, ours in zip(theirs, run.predict(texts), strict=True):
        assert {one["label"]: one["score"] for one in each} == pytest.approx(ours.probabilities, abs=1e-5)


def test_regression_has_no_temperature(home: Path):
    run = run_for(home, "regression")
    assert run.predictor.record.calibration == Calibration()
    assert np.isnan(run.report.calibration_error)
    assert run.report.answered == 1


def test_the_abstention_rule_is_saved_in_folder_files_and_export(home: Path, tmp_path: Path):
    run = run_for(home, **{"decision.abstain_below": CAREFUL})
    assert read_record(run.folder / "model").task.abstain_below == CAREFUL
    texts = [row["text"] for row in rows("single_label", 40, 7)] + ["refund the movie card", "late", "b"]
    answers = run.predict(texts)
    unsure = [max(each.probabilities.values()) < CAREFUL for each in answers]
    assert [each.abstains for each in answers] == unsure
    assert set(unsure) == {True, False}
    assert run.report.answered < 1
    assert run.report.notes[0].startswith("It abstains on")

    source = tmp_path / "texts.txt"
    source.write_text("\n".join(texts) + "\n")
    written = {}
    for name in ("csv", "jsonl"):
        given = tmp_path / f"in.{name}"
        with given.open("w", newline="") as out:
            if name == "csv":
                csv.writer(out).writerows([["text"], *([text] for text in texts)])
            else:
                out.writelines(json.dumps({"text": text}) + "\n" for text in texts)
        target = tmp_path / f"out.{name}"
        expected = PredictSettings(input=str(given), output=str(target))
        predict_file(run.predictor, expected, ColumnSettings(), encoding="utf-8", delimiter=None)
        written[name] = target
    with written["csv"].open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert list(cells[0])[:3] == ["text", "prediction", "abstains"]
    assert [row["abstains"] for row in cells] == [str(each).lower() for each in unsure]
    lines = [json.loads(line) for line in written["jsonl"].read_text().splitlines()]
    assert list(lines[0]) == ["text", "prediction", "abstains", "probabilities"]
    assert [row["abstains"] for row in lines] == unsure

    settings = compose(str(run.folder / "config.yaml"), [f"export.output={tmp_path / 'graph'}", "export.format=onnx"])
    export(run.folder / "model", settings)
    graph = Exported(tmp_path / "graph")
    assert graph.record.task == run.predictor.record.task
    assert [(each.label, each.abstains) for each in graph.predict(texts)] == [
        (each.label, each.abstains) for each in answers
    ]


def test_another_rule_can_be_set_when_a_model_is_used(home: Path, tmp_path: Path):
    run = run_for(home)
    predictor = Predictor(run.folder)
    texts = [row["text"] for row in rows("single_label", 20, 7)]
    assert not any(each.abstains for each in predictor.predict(texts))
    strict = predictor.with_rules(DecisionSettings(abstain_below=0.999))
    assert any(each.abstains for each in strict.predict(texts))
    assert not any(each.abstains for each in predictor.predict(texts))
    with pytest.raises(UserError, match=r"decision\.threshold is for multi_label"):
        predictor.with_rules(DecisionSettings(threshold=0.3))


def test_a_threshold_is_saved_and_can_be_changed_for_evaluation(home: Path, tmp_path: Path):
    for split, part in data_for("multi_label").items():
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    words = {"data": "files", "data.path": str(tmp_path), "decision.threshold": 0.2, "evaluation.floors": False}
    settings = settings_for(home, "multi_label", **STRATEGIES["probe"] | words)
    run = adapt(settings)
    assert nlp_transfer.load(run.folder).record.task.threshold == 0.2
    for answer in run.predict([row["text"] for row in rows("multi_label", 20, 7)]):
        assert answer.label == [name for name, likely in answer.probabilities.items() if likely >= 0.2]
    same = evaluate(run.folder, settings, settings)
    strict = dataclasses.replace(settings, decision=DecisionSettings(threshold=0.9))
    other = evaluate(run.folder, settings, strict)
    assert same.rows[0].intervals == run.report.rows[0].intervals
    assert sum(label.recall for label in other.labels) < sum(label.recall for label in same.labels)


@pytest.mark.parametrize(
    ("metric", "strategy"), cells(("micro_f1", "macro_f1", "subset_accuracy"), ("probe", "finetune"))
)
def test_thresholds_are_chosen_for_the_metric_and_kept(home: Path, tmp_path: Path, metric: str, strategy: str):
    words = STRATEGIES[strategy] | {"evaluation.metric": metric, "training.epochs": 1, "output": str(tmp_path)}
    words |= {"evaluation.floors": metric == "micro_f1"}
    run = adapt(settings_for(home, "multi_label", **words), data=data_for("multi_label"))
    task = nlp_transfer.load(run.folder).record.task
    assert isinstance(task.threshold, tuple) == (metric == "macro_f1")
    assert (task.threshold == 0.5) == (metric == "subset_accuracy")
    least = task.threshold if isinstance(task.threshold, tuple) else [task.threshold] * len(task.labels)
    texts = [row["text"] for row in rows("multi_label", 20, 7)]
    for answer in nlp_transfer.load(run.folder).predict(texts):
        likely = zip(answer.probabilities.items(), least, strict=True)
        assert answer.label == [name for (name, each), limit in likely if each >= limit]
    notes = " ".join(run.report.notes)
    assert ("its own probability threshold" in notes) == (metric == "macro_f1")
    fixed = adapt(
        settings_for(home, "multi_label", **words | {"decision.threshold": 0.5}), data=data_for("multi_label")
    )
    if metric == "micro_f1":  # baselines are free as well: no label has every second row
        ours, theirs = ({row.name: row.intervals[metric].value for row in each.report.rows} for each in (run, fixed))
        assert ours["majority"] > 0
        assert not theirs["majority"] > 0


def test_calibration_does_not_change_multi_label_decisions(home: Path, tmp_path: Path):
    texts = [row["text"] for row in rows("multi_label", 60, 7)]
    words = STRATEGIES["probe"] | {"evaluation.floors": False, "output": str(tmp_path)}
    given = []
    for calibrated in (True, False):
        settings = settings_for(home, "multi_label", **words | {"decision.calibrate": calibrated})
        given.append([answer.label for answer in adapt(settings, data=data_for("multi_label")).predict(texts)])
    assert given[0] == given[1]


def test_evaluate_applies_the_rules_to_baselines(tmp_path: Path, capfd):
    place = furnish(tmp_path)
    for split, part in data_for("multi_label").items():
        lines = "".join(json.dumps({"text": row["text"], "label": row["label"]}) + "\n" for row in part)
        (place / "data" / f"{split}.jsonl").write_text(lines)
        (place / "data" / f"{split}.csv").unlink(missing_ok=True)
    for more in ([], ["decision.threshold=0.3"]):
        assert main([*adapt_words(place, "strategy=probe"), *more]) == 0
        messages = json.loads(capfd.readouterr().out)
        assert main(["evaluate", messages["folder"]]) == 0
        again = json.loads(capfd.readouterr().out)
        assert again["report"]["rows"] == messages["report"]["rows"]


@pytest.mark.exhaustive
def test_an_export_is_measured_by_its_own_rule(home: Path, tmp_path: Path, capfd):
    for split, part in data_for("multi_label").items():
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    words = {"data": "files", "data.path": str(tmp_path), "decision.threshold": 0.2, "evaluation.floors": False}
    run = adapt(settings_for(home, "multi_label", **STRATEGIES["probe"] | words | {"output": str(tmp_path)}))
    assert main(["export", str(run.folder), "decision.threshold=0.95"]) == 0
    found = {}
    for name, more in (("strict", ["decision.threshold=0.95"]), ("run", [])):
        capfd.readouterr()
        assert main(["evaluate", str(run.folder), *more]) == 0
        found[name] = json.loads(capfd.readouterr().out)["report"]["rows"][0]["intervals"]["micro_f1"]["value"]
    assert main(["evaluate", str(run.folder / "onnx")]) == 0
    own = json.loads(capfd.readouterr().out)["report"]["rows"][0]["intervals"]["micro_f1"]["value"]
    assert found["run"] == run.metrics["micro_f1"] != found["strict"]
    assert own == pytest.approx(found["strict"])


def test_a_folder_of_an_earlier_version_decides_as_before(home: Path):
    run = run_for(home)
    path = run.folder / "model" / RECORD
    plain = json.loads(path.read_text())
    del plain["calibration"], plain["task"]["threshold"], plain["task"]["abstain_below"]
    path.write_text(json.dumps(plain))
    task = read_record(path.parent).task
    assert (task.threshold, task.abstain_below) == (0.5, 0)
    task = plain["task"]
    for broken in (
        *(
            plain | {"task": task | rule}
            for rule in ({"threshold": [0.5]}, {"threshold": 1.5}, {"abstain_below": "x"}, {"threshold": None})
        ),
        plain | {"task": task | {"problem": "multi_label", "abstain_below": 0.5}},
        *(plain | {"temperature": value} for value in (0, -1, float("inf"), float("nan"), "1", None)),
        *(plain | {"calibration": value} for value in BROKEN),
    ):
        path.write_text(json.dumps(broken))
        with pytest.raises(UserError, match="cannot be read"):
            read_record(path.parent)


def test_the_command_line_accepts_rules_and_refuses_invalid_ones(tmp_path: Path, capfd):
    place = furnish(tmp_path)
    assert main(adapt_words(place, "strategy=probe")) == 0
    (run,) = (place / "runs").iterdir()
    capfd.readouterr()
    file = str(place / "data" / "test.csv")
    assert main(["predict", str(run), file, "decision.abstain_below=0.9999"]) == 0
    rows_written = list(csv.DictReader(capfd.readouterr().out.splitlines()))
    assert {row["abstains"] for row in rows_written} <= {"true", "false"}
    assert rows_written[0]["prediction"]
    for words, message in (
        (["predict", str(run), file, "decision.threshold=0.3"], "decision.threshold is for multi_label"),
        (["predict", str(run), file, "decision.calibrate=false"], "decision.calibrate is for adapt"),
        (["predict", str(run), file, "decision.abstain_below=1"], "decision.abstain_below=1"),
        (["evaluate", str(run), "decision.threshold=0"], "decision.threshold=0"),
        (adapt_words(place, "strategy=probe", "decision.threshold=0.4"), "decision.threshold is for multi_label"),
        (["export", str(run), "decision.abstain_below=-1"], "decision.abstain_below=-1"),
    ):
        assert main(words) == 2
        error = capfd.readouterr().err
        assert message in error
        assert "Traceback" not in error
