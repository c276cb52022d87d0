"""decision.risk is applied equally in a run, its folder, files, exports, pages and commands."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

import nlp_transfer
from nlp_transfer.artefact.folder import RECORD
from nlp_transfer.artefact.record import Record, read_record
from nlp_transfer.cli import main
from nlp_transfer.comparing.grid import decision_of
from nlp_transfer.config import compose
from nlp_transfer.data.corpus import Examples
from nlp_transfer.data.task import NEVER
from nlp_transfer.decision.labelling import Prediction
from nlp_transfer.decision.report import decision_notes
from nlp_transfer.decision.rules import record_with_rules, unreachable_risk
from nlp_transfer.demo import shown
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.calibration import Calibration
from nlp_transfer.evaluation.decisions import with_rules
from nlp_transfer.evaluation.selective import RiskCurve
from nlp_transfer.exporting.export import export
from nlp_transfer.predicting.exported import Exported
from nlp_transfer.predicting.predict import Predictor
from nlp_transfer.publishing.card_rules import rules_of
from nlp_transfer.running.measurement import evaluate
from nlp_transfer.running.run import Run, adapt
from nlp_transfer.settings import DecisionSettings
from tests.place import adapt_words, furnish, write_csv
from tests.runs import STRATEGIES, rows, settings_for

RISK = 0.2
CURVE = RiskCurve((0.9, 0.6, 0.0), (60, 90, 120), (0, 6, 30))  # guarantee no less than .096, .175 and .376


def doubtful(problem: str = "single_label") -> dict[str, list[dict]]:
    """Rows of which every eighth has a label that its words do not tell, and texts that say little."""
    data = {"train": rows(problem, 96, 1), "validation": rows(problem, 120, 2), "test": rows(problem, 60, 3)}
    for part in data.values():
        for place, row in enumerate(part):
            if place % 4 == 0:
                row["text"] = row["text"][:4]
            if place % 8 == 0:
                row["label"] = part[(place + 1) % len(part)]["label"]
    return data


def run_for(home: Path, problem: str = "single_label", strategy: str = "probe", **values) -> Run:
    words = {"evaluation.floors": False, "cache.gib": 0, "decision.risk": RISK} | STRATEGIES[strategy] | values
    return adapt(settings_for(home, problem, **words), data=doubtful(problem))


@pytest.fixture(scope="module")
def run(home: Path) -> Run:
    return run_for(home)


def texts_of(part: str) -> list[str]:
    return [row["text"] for row in doubtful()[part]]


def with_curve(run: Run, folder: Path, **task) -> Path:
    """Copy a model and give it a curve that is known, and a task."""
    shutil.copytree(run.folder / "model", folder)
    plain = json.loads((folder / RECORD).read_text())
    plain |= {"risk_curve": CURVE.to_json(), "task": plain["task"] | task}
    (folder / RECORD).write_text(json.dumps(plain))
    return folder


@pytest.mark.parametrize(
    ("problem", "strategy", "values"),
    [
        ("single_label", "probe", {}),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (
                ("single_label", "finetune", {}),
                ("ordinal", "probe", {"decision.calibrate": False}),
                ("soft", "probe", {}),
                ("single_label", "lora", {"strategy.merge": False}),
            )
        ),
    ],
)
def test_the_risk_curve_of_validation_rows_sets_the_threshold(
    home: Path, tmp_path: Path, problem: str, strategy: str, values: dict
) -> None:
    made = run_for(home, problem, strategy, output=str(tmp_path), **values)
    record = read_record(made.folder / "model")
    curve, task = record.risk_curve, record.task
    assert curve
    assert (task.risk, task.abstain_below) == (RISK, curve.threshold(RISK))
    predictor, validation = nlp_transfer.load(made.folder), doubtful(problem)["validation"]
    answers = predictor.predict([row["text"] for row in validation])
    true = [max(row["label"], key=row["label"].get) if problem == "soft" else row["label"] for row in validation]
    likely = np.array([max(each.probabilities.values()) for each in answers])
    wrong = np.array([each.label != label for each, label in zip(answers, true, strict=True)])
    for least, answered, mistakes in zip(curve.least, curve.answered, curve.wrong, strict=True):
        assert np.count_nonzero(likely >= least) == answered
        assert np.count_nonzero(wrong[likely >= least]) == mistakes
    assert [each.abstains for each in answers] == (likely < task.abstain_below).tolist()
    assert any(
        note.startswith(f"At most {RISK:.0%} of the labels it gives should be wrong") for note in made.report.notes
    )


def test_another_risk_moves_the_abstention_threshold(run: Run) -> None:
    predictor, curve, texts = Predictor(run.folder), read_record(run.folder / "model").risk_curve, texts_of("test")
    assert curve
    shares = []
    for risk in (None, 0.1, 0.15, RISK, 0.3, 0.6):
        judge = predictor.with_rules(DecisionSettings(risk=risk))
        threshold = curve.threshold(RISK if risk is None else risk)
        answers = judge.predict(texts)
        assert (judge.record.task.abstain_below, judge.record.task.risk) == (threshold, risk or RISK)
        assert [each.abstains for each in answers] == [max(each.probabilities.values()) < threshold for each in answers]
        shares.append(np.mean([not each.abstains for each in answers]))
    own, *others = shares
    assert others == sorted(others)
    assert own == others[2]
    assert 0 < own < 1
    assert others[-1] == 1


def test_one_rule_replaces_the_other(run: Run, home: Path) -> None:
    record = read_record(run.folder / "model")
    threshold = record.task.abstain_below

    def rule(held: Record, **settings) -> tuple[float, float]:
        task = record_with_rules(held, DecisionSettings(**settings)).task
        return task.abstain_below, task.risk

    assert rule(record) == (threshold, RISK)
    assert rule(record, abstain_below=0.9) == (0.9, 0)
    assert rule(record, abstain_below=0.0) == rule(record, risk=0.0) == (0, 0)
    assert rule(record, risk=0.6) == (0, 0.6)  # so much may be wrong that everything is answered
    other = dataclasses.replace(record, task=dataclasses.replace(record.task, abstain_below=0.7, risk=0.0))
    assert rule(other) == rule(other, risk=0.0) == (0.7, 0)
    assert rule(other, risk=RISK) == (threshold, RISK)
    for both in ({"risk": 0.1, "abstain_below": 0.9}, {"risk": 0.1, "abstain_below": 0.0}):
        with pytest.raises(UserError, match=r"decision\.abstain_below=.* and decision\.risk=0\.1"):
            record_with_rules(record, DecisionSettings(**both))
    for problem in ("multi_label", "regression"):
        with pytest.raises(UserError, match=r"decision\.risk is for tasks with one label per text"):
            with_rules(dataclasses.replace(record.task, problem=problem, risk=0.0), DecisionSettings(risk=0.1))


def test_unreachable_risks_are_refused_before_and_after_training(run: Run, home: Path) -> None:
    message = (
        r"decision\.risk=0\.01 needs at least 597 validation rows, and there are 120, .* no less than 0\.049 even if"
    )
    with pytest.raises(UserError, match=message):
        run_for(home, **{"decision.risk": 0.01})
    with pytest.raises(UserError, match=r"adapted with 120, .*: raise it, or adapt again with more"):
        run.predictor.with_rules(DecisionSettings(risk=0.01))
    plain = run_for(home, **{"decision.risk": None})
    with pytest.raises(UserError, match=r"decision\.risk=0\.2: this model, or its export, has no"):
        plain.predictor.with_rules(DecisionSettings(risk=RISK))
    assert plain.predictor.with_rules(DecisionSettings(risk=0.0)).record == plain.predictor.record


def test_without_a_guarantee_the_model_abstains_everywhere(run: Run, tmp_path: Path) -> None:
    model = with_curve(run, tmp_path / "model", risk=0.06, abstain_below=NEVER)
    predictor = Predictor(model)
    assert all(each.abstains for each in predictor.predict(texts_of("test")))
    why = unreachable_risk(predictor.record.task, predictor.record.risk_curve)
    assert why
    assert "abstains on every text" in why
    assert "at most 6% of its labels are wrong (decision.risk=0.06)" in why
    assert "The lowest limit that they guarantee is decision.risk=0.096;" in why
    most = predictor.with_rules(DecisionSettings(risk=0.096))
    assert most.record.task.abstain_below == 0.9
    assert unreachable_risk(most.record.task, CURVE) is None
    for risk, least in ((0.175, 0.6), (0.38, 0.0)):
        assert predictor.with_rules(DecisionSettings(risk=risk)).record.task.abstain_below == least


def test_an_old_record_is_read_and_a_damaged_one_refused(run: Run, tmp_path: Path) -> None:
    plain = json.loads((run.folder / "model" / RECORD).read_text())
    old = {key: value for key, value in plain.items() if key != "risk_curve"}
    old["task"] = {key: value for key, value in plain["task"].items() if key != "risk"}
    found = Record.from_json(old)
    assert (found.risk_curve, found.task.risk, found.task.abstain_below) == (None, 0, plain["task"]["abstain_below"])
    task, curve = plain["task"], plain["risk_curve"]
    for broken in (
        {"risk_curve": None},
        {"risk_curve": curve | {"wrong": [-1, *curve["wrong"][1:]]}},
        {"risk_curve": []},
        *({"task": task | {"risk": risk}} for risk in (1.0, -0.1, "x", None)),
        {"task": task | {"abstain_below": 0.123}},
        {"task": task | {"abstain_below": 1.5}},
        {"task": task | {"risk": 0, "abstain_below": NEVER}},
    ):
        (tmp_path / RECORD).write_text(json.dumps(plain | broken))
        with pytest.raises(UserError, match="cannot be read"):
            read_record(tmp_path)


def told(record: Record, sure: list[float], right: list[bool], *, in_sample: bool = False) -> str:
    """Return the report's first sentence for rows with these highest probabilities."""
    likely = np.array([[each, (1 - each) * 0.6, (1 - each) * 0.4] for each in sure])
    targets, texts = np.where(right, 0, 1), ["a"] * len(sure)
    examples = Examples(texts, None, targets, np.ones(len(sure), np.float32), texts, None)
    record = dataclasses.replace(record, calibration=Calibration())
    answers = (np.log(likely), None)
    return decision_notes(record, None, examples, answers, None, confidence=0.95, in_sample=in_sample)[0]


def test_the_sentences_by_hand(run: Run, tmp_path: Path) -> None:
    record = record_with_rules(read_record(with_curve(run, tmp_path / "model", risk=0.0)), DecisionSettings(risk=0.175))
    start = "At most 17.5% of the labels it gives should be wrong, by a threshold set on 120 validation rows"
    message = told(record, [0.7] * 8 + [0.5] * 2, [True] * 7 + [False] * 3)
    assert message.startswith(start)
    assert "it gives 80.0% [44.4%, 97.5%] of the rows a label, and 12.5% [0.3%, 52.7%] of these are wrong" in message
    assert message.endswith(", too few rows to confirm it.")
    assert told(record, [0.7] * 100, [True] * 100).endswith("0.0% [0.0%, 3.6%] of these are wrong.")
    assert "more than the limit" in told(record, [0.7] * 100, [True] * 60 + [False] * 40)
    message = told(record, [0.7] * 8 + [0.5] * 2, [True] * 10, in_sample=True)
    assert message.endswith(
        "and 0.0% of these are wrong, but the threshold was set on these rows, so they cannot check it."
    )
    assert told(record, [0.5], [True]).endswith(
        "it gives 0.0% [0.0%, 97.5%] of the rows a label, so these rows cannot check it."
    )
    never = record_with_rules(record, DecisionSettings(risk=0.06))
    assert told(never, [0.7], [True]).startswith("The model abstains on every text: ")


@pytest.mark.parametrize(
    ("risk", "least", "card", "page", "head"),
    [
        (
            0.05,
            0.71,
            "reaches 0.71, so that, for texts like its validation rows",
            "less than 71.0%",
            "71.0%: at",
        ),
        (0.05, NEVER, "It abstains on every text", "no probability is enough", "It abstains on every one"),
        (0.05, 0.0, "It abstains on no text: for texts like its validation rows", "", "It never abstains: at"),
    ],
)
def test_card_and_page_name_the_rule(run: Run, risk: float, least: float, card: str, page: str, head: str) -> None:
    task = dataclasses.replace(read_record(run.folder / "model").task, risk=risk, abstain_below=least)
    (message,) = rules_of(task.to_json())
    assert card in message
    assert "at most 5% of the labels given are wrong" in message
    answer = Prediction("film", {"film": 0.7, "card": 0.2, "refund": 0.1}, abstains=bool(least))
    assert page in (headline := shown.headline(task, answer))
    assert ("at most 5% of its labels may be wrong" in headline) == bool(least)
    assert head in (purpose := shown.purpose(task))
    assert "at most 5% of the labels it gives are wrong" in purpose


@pytest.mark.slow
def test_the_slider_starts_at_the_guaranteed_threshold(run: Run, tmp_path: Path) -> None:
    from nlp_transfer.demo import page  # imports gradio, which takes long

    for model in (run.folder, with_curve(run, tmp_path / "model", risk=0.06, abstain_below=NEVER)):
        labeller = Predictor(model)
        at_first = page._slider(labeller.record.task).value
        assert 0 <= at_first <= 1
        for value in (at_first, round(at_first, 2)):
            assert page._with_threshold(labeller, value) is labeller
        moved = page._with_threshold(labeller, 0.25).record.task
        assert (moved.abstain_below, moved.risk) == (0.25, 0)


def test_trials_of_a_comparison_ignore_the_risk() -> None:
    settings = compose(None, ["decision.risk=0.1", "decision.calibrate=false"])
    assert decision_of(settings) == DecisionSettings(calibrate=False)


@pytest.mark.slow
def test_an_export_has_the_rule_and_can_move_it(run: Run, tmp_path: Path) -> None:
    texts, model = texts_of("validation"), run.folder / "model"
    for name, more in (("same", []), ("strict", ["decision.risk=0.1"])):
        words = [f"export.output={tmp_path / name}", *more]
        export(model, compose(None, words))
        expected = Predictor(model).with_rules(compose(None, words).decision)
        graph = Exported(tmp_path / name)
        assert graph.record == dataclasses.replace(expected.record, sha256=graph.record.sha256)
        assert [each.abstains for each in graph.predict(texts)] == [each.abstains for each in expected.predict(texts)]
    looser = Exported(tmp_path / "same").with_rules(DecisionSettings(risk=0.6))
    assert not any(each.abstains for each in looser.predict(texts))
    never = export(with_curve(run, tmp_path / "model", risk=0.06, abstain_below=NEVER), compose(None, []))
    assert never.fidelity.equal_decisions == 1
    assert any("abstains on every text" in note for note in never.notes)


@pytest.mark.slow
def test_commands_pages_and_files_mention_the_risk(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place = furnish(tmp_path)
    for split, part in doubtful().items():
        write_csv(place / "data" / f"{split}.csv", part)
    words = [*adapt_words(place, "strategy=probe"), f"decision.risk={RISK}"]
    words = [word.replace("report.write=false", "report.write=true") for word in words]
    assert main(["plan", *words[1:]]) == 0
    assert "at most 20% of the labels given are wrong" in json.loads(capfd.readouterr().out)["decision"]
    assert main(words) == 0
    done = json.loads(capfd.readouterr().out)
    folder = Path(done["folder"])
    assert "so that at most 20% of its labels are wrong (decision.risk)" in (folder / "report.html").read_text()
    for text in (folder / "report.md", folder / "model" / "README.md"):
        assert "20%" in text.read_text()
    threshold = read_record(folder / "model").task.abstain_below
    assert done["report"]["answered"] == pytest.approx(evaluated(folder, capfd)["answered"])

    file = str(place / "data" / "test.csv")
    assert main(["predict", str(folder), file]) == 0
    cells = list(csv.DictReader(capfd.readouterr().out.splitlines()))
    likely = [max(float(cell) for name, cell in row.items() if name.startswith("p(")) for row in cells]
    assert [row["abstains"] for row in cells] == [str(each < threshold).lower() for each in likely]
    assert set(row["abstains"] for row in cells) == {"true", "false"}
    assert main(["predict", str(folder), file, "decision.risk=0.6"]) == 0  # which answers everything
    assert {row["abstains"] for row in csv.DictReader(capfd.readouterr().out.splitlines())} == {"false"}

    shares = [evaluated(folder, capfd, f"decision.risk={risk}")["answered"] for risk in (0.15, 0.6)]
    assert shares == sorted(shares)
    replaced = evaluated(folder, capfd, "decision.abstain_below=0.4")["notes"]
    assert not [note for note in replaced if "of the labels it gives should be wrong" in note]
    lowest = read_record(folder / "model").risk_curve.min_risk()
    assert lowest > 0.05  # the least that any 120 rows guarantee
    assert evaluated(folder, capfd, "decision.risk=0.05", f"report.output={tmp_path / 'page.html'}")["answered"] == 0
    assert "it abstains everywhere, so that at most 5%" in (tmp_path / "page.html").read_text()
    assert main(["predict", str(folder), file, "decision.risk=0.05"]) == 0
    assert "abstains on every text" in capfd.readouterr().err

    for wrong, message in (
        (["decision.risk=1"], "decision.risk=1.0 must lie in [0, 1)"),
        (["decision.risk=0.001"], "decision.risk=0.001 needs at least 5,989 validation rows"),
        (["decision.risk=0.1", "decision.abstain_below=0.5"], "decision.abstain_below=0.5 and decision.risk=0.1"),
    ):
        for verb in (["evaluate", str(folder)], ["predict", str(folder), file], ["plan", *adapt_words(place)[1:]]):
            assert main([*verb, *wrong]) == 2
            error = capfd.readouterr().err
            assert message in error
            assert "Traceback" not in error


def evaluated(folder: Path, capfd: pytest.CaptureFixture[str], *words: str) -> dict:
    assert main(["evaluate", str(folder), *words]) == 0
    return json.loads(capfd.readouterr().out)["report"]


def test_the_rows_that_set_the_threshold_do_not_check_it(home: Path, tmp_path: Path) -> None:
    lines = [row | {"split": split} for split, part in doubtful().items() if split != "test" for row in part]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = {
        "data": "files",
        "data.path": str(tmp_path / "data.jsonl"),
        "data.test_share": 0.0,
        "output": str(tmp_path),
    }
    made = adapt(
        settings_for(home, **STRATEGIES["probe"] | words | {"evaluation.floors": False, "decision.risk": RISK})
    )
    assert made.report.split == "validation"
    assert any("the threshold was set on these rows, so they cannot check it" in note for note in made.report.notes)
    settings = compose(str(made.folder / "config.yaml"))
    assert evaluate(made.folder, settings, settings).notes == made.report.notes
    assert yaml.safe_load((made.folder / "config.yaml").read_text())["decision"]["risk"] == RISK
