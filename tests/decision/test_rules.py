"""Decision rules are applied equally in folders, files, servers, exports and reports."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import nlp_transfer
from nlp_transfer.artefact.folder import RECORD, load_detector
from nlp_transfer.artefact.record import read_record, write_record
from nlp_transfer.cli import main
from nlp_transfer.data.corpus import Examples
from nlp_transfer.decision.report import decision_notes
from nlp_transfer.decision.rules import limit_of, record_with_rules
from nlp_transfer.encoder.source import UNKNOWN, digest_of
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.calibration import Calibration
from nlp_transfer.evaluation.calibration_scores import CalibrationScores
from nlp_transfer.evaluation.formatting import number
from nlp_transfer.evaluation.hidden_classes import auroc, auroc_interval, fit_detector
from nlp_transfer.evaluation.novelty import Novelty
from nlp_transfer.evaluation.unknown import DETECTORS, OF_LOGITS
from nlp_transfer.predicting.predict import Predictor, predict_file
from nlp_transfer.running.run import adapt
from nlp_transfer.serving.app import _plain
from nlp_transfer.settings import ColumnSettings, DecisionSettings
from nlp_transfer.verb_settings import PredictSettings
from tests.place import adapt_words, furnish, write_csv
from tests.runs import STRATEGIES, data_for, rows, settings_for
from tests.stopped import stopped_run

pytestmark = pytest.mark.slow

RULES = {"decision.unknown": 0.2, "decision.coverage": 0.8}
FOREIGN = ["zebra xylophone", "the quick brown fox", "1 2 3 4 5", "good morning vietnam"]


def run_for(home: Path, problem: str = "single_label", strategy: str = "probe", **values):
    words = {"evaluation.floors": False, "cache.gib": 0} | STRATEGIES[strategy] | values
    return adapt(settings_for(home, problem, **words), data=data_for(problem))


def with_score(folder: Path, made: Path, name: str) -> Path:
    """Copy a model and give it another score of the unknown, of rows that stand for features."""
    shutil.copytree(folder, made)
    record = read_record(made)
    (made / UNKNOWN).unlink(missing_ok=True)
    predictor = Predictor(folder)
    texts = [row["text"] for row in data_for("single_label")["train"]]
    labels = [row["label"] for row in data_for("single_label")["train"]]
    both = predictor._run(texts, None, ("logits", "features"))
    logits, features = both[:, :3], both[:, 3:]
    classes = record.task.encode(labels, str)
    detector = fit_detector(name, features, classes, labels=3, seed=0)
    sha256 = None
    if name not in OF_LOGITS:
        from safetensors.numpy import save_file

        save_file(detector.tensors(), made / UNKNOWN)
        sha256 = digest_of([made / UNKNOWN])
    kept = CalibrationScores.of(detector.scores(logits, features))
    write_record(dataclasses.replace(record, novelty=Novelty(name, kept, {}, sha256)), made)
    return made


def texts_of(examples: list[dict]) -> tuple[list[str], list[str] | None]:
    return [row["text"] for row in examples], [row["text_pair"] for row in examples] if "text_pair" in examples[
        0
    ] else None


def likeliest(label) -> str:
    return max(label, key=label.get) if isinstance(label, dict) else label


@pytest.mark.parametrize(
    ("problem", "strategy", "values"),
    [
        ("single_label", "finetune", {}),
        *((problem, "probe", {}) for problem in ("ordinal", "soft", "chunk", "pair", "siamese")),
        pytest.param("single_label", "probe", {}, marks=pytest.mark.exhaustive),
        pytest.param("ordinal", "finetune", {}, marks=pytest.mark.exhaustive),
        pytest.param("single_label", "lora", {"strategy.merge": False}, marks=pytest.mark.exhaustive),
        ("chunk", "lora", {"strategy.merge": False}),
    ],
)
def test_saved_rules_hold_on_their_validation_rows(
    home: Path, tmp_path: Path, problem: str, strategy: str, values: dict
):
    run = run_for(home, problem, strategy, output=str(tmp_path), **RULES, **values)
    record = read_record(run.folder / "model")
    assert record.merged == values.get("strategy.merge", True)
    assert (record.task.unknown, record.task.coverage) == (0.2, 0.8)
    assert record.novelty
    assert record.novelty.kept.rows == 16
    assert record.novelty.rehearsed
    best = max(record.novelty.rehearsed, key=record.novelty.rehearsed.__getitem__)
    assert record.novelty.score in (best, "relative_mahalanobis")
    validation = data_for(problem)["validation"]
    answers = Predictor(run.folder).predict(*texts_of(validation))
    # 14 of 16 scores are at most the (16 + 1) * 0.8 = 14th, but for ties and rounding.
    assert sum(each.unknown for each in answers) <= 2 + 1
    assert sum(likeliest(row["label"]) in each.set for row, each in zip(validation, answers, strict=True)) >= 14 - 1
    assert all(each.label in each.set for each in answers)
    assert [each.set for each in nlp_transfer.load(run.folder).predict(*texts_of(validation))] == [
        each.set for each in answers
    ]
    assert any("(target 20.0%, by the score" in note for note in run.report.notes)
    assert any(
        "Its sets of labels should contain the true one in 80.0% of the rows" in note for note in run.report.notes
    )
    assert any("Without calibration: calibration error" in note for note in run.report.notes)


def test_a_resumed_run_has_the_same_rules(tmp_path: Path):
    _, expected = stopped_run(tmp_path, **RULES)
    data, records = data_for("single_label"), []
    for words in (expected, expected | {"output": str(tmp_path / "other")}):
        folder = adapt(settings_for(tmp_path, **words), data=data).folder / "model"
        records.append((folder / RECORD).read_text())
    assert json.loads(records[0])["novelty"]
    assert records[0] == records[1]


def test_rows_without_weight_set_no_limit(home: Path, tmp_path: Path):
    """Their labels are wrong and their texts strange."""
    data, strange = data_for("single_label"), [{"text": text, "label": "billing"} for text in FOREIGN * 4]
    labels = sorted({row["label"] for row in data["train"]})
    absent = [row | {"label": labels[number % len(labels)], "weight": 0.0} for number, row in enumerate(strange)]
    weighted = {split: [row | {"weight": 1.0} for row in part] for split, part in data.items()}
    words = {"evaluation.floors": False, "cache.gib": 0, "data.columns.weight": "weight"} | STRATEGIES["probe"] | RULES
    found = []
    for validation in (weighted["validation"], weighted["validation"] + absent):
        output = str(tmp_path / str(len(validation)))
        run = adapt(settings_for(home, output=output, **words), data=weighted | {"validation": validation})
        found.append(read_record(run.folder / "model"))
    plain, other = found
    assert other.novelty.kept.rows == other.nonconformity.rows == 16
    np.testing.assert_allclose(other.novelty.kept.values, plain.novelty.kept.values, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(other.nonconformity.values, plain.nonconformity.values, rtol=1e-4, atol=1e-5)
    assert other.novelty.rehearsed == plain.novelty.rehearsed


def test_regression_has_intervals_and_no_unknown_rule(home: Path):
    run = run_for(home, "regression", **{"decision.coverage": 0.8})
    validation = data_for("regression")["validation"]
    answers = run.predict([row["text"] for row in validation])
    inside = [each.low <= row["label"] <= each.high for row, each in zip(validation, answers, strict=True)]
    assert sum(inside) >= 14 - 1
    assert any("Its intervals should contain the true number in 80.0% of the rows" in note for note in run.report.notes)
    assert all(each.unknown is each.set is None for each in answers)
    with pytest.raises(UserError, match=r"decision\.unknown is for tasks with one label"):
        run_for(home, "regression", **RULES)
    for key in RULES:
        with pytest.raises(UserError, match=rf"{key} is for"):
            run_for(home, "multi_label", **{key: 0.2})


def test_a_model_without_scores_cannot_get_rules(home: Path):
    run = run_for(home)
    answer = run.predict(["my card is late"])[0]
    assert (answer.unknown, answer.set, answer.low, answer.high) == (None,) * 4
    assert _plain(answer, None).keys() == {"label", "probabilities", "abstains"}
    assert not (run.folder / "model" / UNKNOWN).exists()
    for key in RULES:
        name = key.partition(".")[2]
        with pytest.raises(UserError, match=rf"{key}=0\.2: this model, or its export, has no.*{key}"):
            Predictor(run.folder).with_rules(DecisionSettings(**{name: 0.2}))
    plain = json.loads((run.folder / "model" / RECORD).read_text())
    del plain["novelty"], plain["nonconformity"], plain["task"]["unknown"], plain["task"]["coverage"]
    (run.folder / "model" / RECORD).write_text(json.dumps(plain))  # as it was before there were rules
    assert read_record(run.folder / "model").novelty is None


@pytest.mark.parametrize("name", DETECTORS)
def test_every_score_is_read_back_and_a_level_can_be_moved(home: Path, tmp_path: Path, name: str):
    run = run_for(home, **RULES)
    model = with_score(run.folder / "model", tmp_path / name, name)
    predictor = Predictor(model)
    texts = [row["text"] for row in data_for("single_label")["train"]]
    shares = []
    for rate in (0.1, 0.2, 0.5):
        answers = predictor.with_rules(DecisionSettings(unknown=rate, coverage=1 - rate)).predict(texts)
        shares.append(np.mean([each.unknown for each in answers]))
        assert shares[-1] <= rate + 1.5 / 48
    assert shares == sorted(shares)
    silent = predictor.with_rules(DecisionSettings(unknown=0.0, coverage=0.0)).predict(texts)
    assert {(each.unknown, each.set) for each in silent} == {(None, None)}
    assert [each.label for each in silent] == [each.label for each in predictor.predict(texts)]
    if name not in OF_LOGITS:
        (model / UNKNOWN).write_bytes((model / UNKNOWN).read_bytes()[:-1] + b"\x7f")
        with pytest.raises(UserError, match=rf"{UNKNOWN} is not what was saved"):
            Predictor(model)
        (model / UNKNOWN).unlink()
        with pytest.raises(UserError, match=rf"{UNKNOWN} is missing"):
            load_detector(model, read_record(model))


def test_too_few_validation_rows_are_refused_before_the_training_and_after_it(home: Path):
    with pytest.raises(UserError, match=r"decision\.unknown=0\.05 needs at least 19 validation rows"):
        run_for(home, **{"decision.unknown": 0.05})
    with pytest.raises(UserError, match=r"decision\.coverage=0\.95 needs at least 19 validation rows"):
        run_for(home, **{"decision.coverage": 0.95})
    run = run_for(home, **RULES)
    with pytest.raises(UserError, match=r"decision\.unknown=0\.01 needs at least 99"):
        run.predictor.with_rules(DecisionSettings(unknown=0.01))
    with pytest.raises(UserError, match=r"adapted with \d+: raise it, or adapt again with more"):
        run.predictor.with_rules(DecisionSettings(unknown=0.01))


@pytest.mark.parametrize(
    "broken",
    [
        {"novelty": {"score": "distance"}},
        {"novelty": {"sha256": 1}},
        {"novelty": {"kept": {"rows": 2, "values": [1]}}},
        {"novelty": None},
        {"nonconformity": None},
        {"nonconformity": {"rows": 1, "values": ["x"]}},
        {"task": {"unknown": 0.7}},
        {"task": {"coverage": 1.0}},
    ],
)
def test_a_damaged_record_is_refused(home: Path, tmp_path: Path, broken: dict):
    run = run_for(home, **RULES)
    plain = json.loads((run.folder / "model" / RECORD).read_text())
    ((key, change),) = broken.items()
    plain[key] = plain[key] | change if change else change
    (tmp_path / RECORD).write_text(json.dumps(plain))
    with pytest.raises(UserError, match="cannot be read"):
        read_record(tmp_path)


def test_files_and_servers_have_the_rules_of_the_model(home: Path, tmp_path: Path):
    run = run_for(home, **RULES)
    texts = [row["text"] for row in rows("single_label", 20, 7)] + FOREIGN
    answers = run.predict(texts)
    given, made = tmp_path / "in.csv", tmp_path / "out.csv"
    with given.open("w", newline="") as out:
        csv.writer(out).writerows([["text"], *([text] for text in texts)])
    expected = PredictSettings(input=str(given), output=str(made))
    predict_file(run.predictor, expected, ColumnSettings(), encoding="utf-8", delimiter=None)
    with made.open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert list(cells[0])[:4] == ["text", "prediction", "unknown", "set"]
    assert [row["unknown"] for row in cells] == [str(each.unknown).lower() for each in answers]
    assert [row["set"] for row in cells] == ["|".join(each.set) for each in answers]
    served = [_plain(each, 1) for each in answers]
    assert [(each["unknown"], each["set"]) for each in served] == [(each.unknown, each.set) for each in answers]


def test_rows_with_unknown_labels_are_measured_separately(tmp_path: Path, capfd):
    place = furnish(tmp_path)
    test = data_for("single_label")["test"]
    strange = [{"id": f"s{row}", "text": text, "label": "oos"} for row, text in enumerate(FOREIGN)]
    write_csv(place / "data" / "test.csv", [*test, *strange])
    words = [f"{key}={value}" for key, value in RULES.items()]
    assert main([*adapt_words(place, "strategy=probe", "data.unseen=ignore"), *words]) == 0
    messages = json.loads(capfd.readouterr().out)
    note = next(note for note in messages["report"]["notes"] if "unknown" in note)
    assert "Of 4 rows with a label it does not know it calls" in note
    predictor = Predictor(Path(messages["folder"]))
    answers = predictor.predict([row["text"] for row in test]), predictor.predict(FOREIGN)
    assert f"calls {np.mean([each.unknown for each in answers[1]]):.1%} [" in note
    assert f"It calls {np.mean([each.unknown for each in answers[0]]):.1%} [" in note
    for more in ([], ["data=files", f"data.path={place / 'data' / 'test.csv'}", "data.unseen=ignore"]):
        assert main(["evaluate", messages["folder"], *more]) == 0
        again = json.loads(capfd.readouterr().out)["report"]["notes"]
        assert note in again
    assert main(["evaluate", messages["folder"], "decision.unknown=0"]) == 0
    assert "target" not in " ".join(json.loads(capfd.readouterr().out)["report"]["notes"])


@pytest.mark.parametrize(("temperature", "helped"), [(0.5, True), (4.0, False)])
def test_unhelpful_calibration_is_noted(home: Path, temperature: float, helped: bool):
    record = read_record(run_for(home).folder / "model")
    record = dataclasses.replace(record, calibration=Calibration(temperature))
    texts, logits = ["a"] * 3, np.eye(3)  # all right, so that the surer it is, the better
    examples = Examples(texts, None, np.arange(3), np.ones(3, np.float32), texts, None)
    (message,) = decision_notes(record, None, examples, (logits, None), None, confidence=0.95, in_sample=False)
    assert message.startswith("Without calibration: calibration error ")
    assert f"; calibrated (a temperature of {temperature:.3g}): calibration error " in message
    assert ("By the Brier score, calibration did not help on these rows." in message) != helped


def test_the_sentences_by_hand(home: Path):
    record = read_record(run_for(home, **RULES).folder / "model")
    kept = CalibrationScores.of(np.linspace(-3, 0, 31))
    task = dataclasses.replace(record.task, coverage=0.0)
    record = dataclasses.replace(record, task=task, novelty=Novelty("energy", kept, {}), calibration=Calibration())
    assert limit_of(record) == pytest.approx(-0.5)  # the (31 + 1) * 0.8 = 26th of 31
    logits = np.array([[3.0, 0, 0], [0, 3, 0], [0, 0, 3], [-5, -5, -4]])
    texts = ["a"] * 4
    examples = Examples(texts, None, np.array([0, 1, 0, 2]), np.ones(4, np.float32), texts, None)
    foreign = np.array([[-2.0, -2, -2], [3, 0, 0.1]])
    message, _ = decision_notes(
        record, None, examples, (logits, None), lambda: (foreign, None), confidence=0.95, in_sample=False
    )
    assert "It calls 25.0% [0.6%, 80.6%] of the rows unknown (target 20.0%, by the score 'energy')" in message
    assert "accepts and labels correctly 50.0% [6.8%, 93.2%] of all rows." in message
    score = auroc(*(DETECTORS["energy"].of({}).scores(each, None) for each in (logits, foreign)))
    low, high = map(number, auroc_interval(score, 4, 2, confidence=0.95))
    assert f"it calls 50.0% [1.3%, 98.7%] unknown (AUROC {number(score)} [{low}, {high}]; .500 is chance)" in message
    assert ("the rule barely distinguishes them from known rows" in message) == (score < 0.7)
    alike = np.array([[3.0, 0, 0]] * 5)
    message, _ = decision_notes(
        record, None, examples, (logits, None), lambda: (alike, None), confidence=0.95, in_sample=False
    )
    assert "calls 0.0% [0.0%, 52.2%] unknown" in message
    assert ": the rule barely distinguishes them from known rows; no other figure includes these." in message
    for score, hardly in ((0.6, True), (0.7, False)):
        rated = dataclasses.replace(record, novelty=Novelty("energy", kept, {"energy": score, "neighbours": 0.4}))
        message, _ = decision_notes(rated, None, examples, (logits, None), None, confidence=0.95, in_sample=False)
        assert ("barely distinguished from the others (AUROC .600; .500 is chance)" in message) == hardly


def test_rules_of_the_command_line(tmp_path: Path, capfd):
    place = furnish(tmp_path)
    for words, message in (
        (["decision.unknown=0.6"], "decision.unknown=0.6 must lie in [0, 0.5]"),
        (["decision.coverage=1"], "decision.coverage=1.0 must lie in [0, 1)"),
        (["decision.unknown=0.01"], "decision.unknown=0.01 needs at least 99 validation rows"),
    ):
        assert main(adapt_words(place, "strategy=probe", *words)) == 2
        error = capfd.readouterr().err
        assert message in error
        assert "Traceback" not in error


@pytest.mark.parametrize("name", ["energy", pytest.param("neighbours", marks=pytest.mark.exhaustive)])
def test_an_export_detects_unknown_texts_by_logits(home: Path, tmp_path: Path, name: str):
    from nlp_transfer.config import compose
    from nlp_transfer.exporting.export import export
    from nlp_transfer.predicting.exported import Exported

    model = with_score(run_for(home, **RULES).folder / "model", tmp_path / "model", name)
    texts = [row["text"] for row in rows("single_label", 20, 7)]
    words = [f"export.output={tmp_path / 'graph'}"]
    words += ["decision.unknown=0"] * (name == "neighbours")
    export(model, compose(None, words))
    ours, theirs = Predictor(model).predict(texts), Exported(tmp_path / "graph").predict(texts)
    assert [each.set for each in theirs] == [each.set for each in ours]
    assert [each.unknown for each in theirs] == [each.unknown if name == "energy" else None for each in ours]


def test_an_export_without_features_refuses_feature_detectors(home: Path, tmp_path: Path):
    from nlp_transfer.config import compose
    from nlp_transfer.exporting.export import export

    model = with_score(run_for(home, **RULES).folder / "model", tmp_path / "model", "neighbours")
    with pytest.raises(UserError, match=r"decision\.unknown=0\.2: this model detects unknown texts by neighbours"):
        export(model, compose(None, [f"export.output={tmp_path / 'graph'}"]))


def test_rules_apply_to_a_record_without_a_model(home: Path):
    record = read_record(run_for(home, **RULES).folder / "model")
    assert record_with_rules(record, DecisionSettings()) == record
    assert record_with_rules(record, DecisionSettings(unknown=0.0)).task.unknown == 0
