from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from nlp_transfer.data.corpus import Examples
from nlp_transfer.data.task import Task
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.baselines import Baseline
from nlp_transfer.evaluation.intervals import Interval
from nlp_transfer.evaluation.metrics import DEFAULT_METRIC, METRICS, compute, per_label
from nlp_transfer.evaluation.report import BaselineComparison, PredictorScores, Report, evaluate_predictions, render
from nlp_transfer.settings import EvaluationSettings
from nlp_transfer.wording import counted
from tests.evaluation.conftest import make_case

SETTINGS = EvaluationSettings(resamples=60)


def examples_of(case):
    rows = len(case.logits)
    weights = np.ones(rows, np.float32) if case.weights is None else case.weights
    ids = [f"row-{row:03d}" for row in range(rows)]
    return Examples(["text"] * rows, None, case.targets, weights, ids, None)


def constant(case):
    """A baseline with the same prediction for every row."""
    return Baseline("majority", np.tile(case.logits[:1], (len(case.logits), 1)))


def report_of(case, *, baselines=(), settings=SETTINGS, seed=0):
    return evaluate_predictions(
        case.task, examples_of(case), case.logits, baselines=baselines, settings=settings, seed=seed, split="test"
    )


def shown(report, width):
    console = Console(width=width, file=io.StringIO(), record=True)
    render(report, console)
    return console.export_text()


def test_figures_are_those_of_the_metrics(case):
    weak = Baseline("tfidf", case.logits + 1.5 * np.roll(case.logits, 1, axis=0), "C=2")
    report = report_of(case, baselines=[constant(case), weak])
    assert [row.name for row in report.rows] == ["model", "majority", "tfidf"]
    for row, logits in zip(report.rows, (case.logits, constant(case).logits, weak.logits), strict=True):
        assert tuple(row.intervals) == METRICS[case.task.problem]
        values = {name: figures.value for name, figures in row.intervals.items()}
        expected = compute(case.task, logits, case.targets, case.weights)
        assert values == pytest.approx(expected, nan_ok=True, rel=1e-12)
    assert report.labels == per_label(*case.arguments)
    assert (report.split, report.examples, report.metric) == ("test", 120, DEFAULT_METRIC[case.task.problem])


def test_json_and_back(case):
    report = report_of(case, baselines=[constant(case)])
    text = json.dumps(report.to_json(), allow_nan=False)
    again = Report.from_json(json.loads(text))
    assert json.dumps(again.to_json(), allow_nan=False) == text
    assert again.verdict == report.verdict
    assert shown(again, 80) == shown(report, 80)


def test_no_bit_depends_on_the_order_of_the_rows(case):
    baseline = constant(case)
    first = report_of(case, baselines=[baseline]).to_json()
    order = np.random.default_rng(0).permutation(len(case.logits))
    rows = examples_of(case)
    shuffled = Examples(
        rows.texts, None, rows.targets[order], rows.weights[order], [rows.ids[row] for row in order], None
    )
    second = evaluate_predictions(
        case.task,
        shuffled,
        case.logits[order],
        baselines=[replace(baseline, logits=baseline.logits[order])],
        settings=SETTINGS,
        seed=0,
        split="test",
    ).to_json()
    assert first == second


def predictions(right):
    """A four-class case whose rows are right or wrong as given."""
    rng = np.random.default_rng(0)
    targets = rng.integers(4, size=len(right))
    predicted = np.where(right, targets, (targets + 1) % 4)
    return targets, np.eye(4)[predicted] * 3


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "log_loss"])
@pytest.mark.parametrize(
    ("model", "baseline", "outcome"),
    [(0.9, 0.6, "better"), (0.6, 0.9, "worse"), (0.8, 0.8, "no evidence"), (1.0, 1.0, "no evidence")],
)
def test_outcomes(metric, model, baseline, outcome):
    rng = np.random.default_rng(1)
    targets, logits = predictions(rng.random(300) < model)
    case = replace(make_case("single_label", rows=300), logits=logits, targets=targets)
    baselines = [
        Baseline("majority", np.zeros((300, 4))),
        Baseline("tfidf", predictions(rng.random(300) < baseline)[1]),
    ]
    report = report_of(case, baselines=baselines, settings=replace(SETTINGS, metric=metric))
    assert report.comparison.floor == "tfidf"
    assert report.comparison.outcome == outcome
    assert {"better": "Better than", "worse": "WORSE than", "no evidence": "No evidence"}[outcome] in report.verdict
    difference = report.comparison.difference
    values = [row.intervals[metric].value for row in report.rows]
    assert difference.value == pytest.approx(values[0] - values[2])
    assert difference.low <= difference.value <= difference.high


def test_a_better_model_may_be_worse_in_other_metrics():
    values = {"model": (0.406, 0.163, 0.23, 0.2), "majority": (0.3, 0.1, 0.296, 0.1), "tfidf": (0.377, 0.182, 0.2, 0.1)}
    names = ("micro_f1", "macro_f1", "subset_accuracy", "brier")
    rows = [
        PredictorScores(who, {name: Interval(each, each, each) for name, each in zip(names, figures, strict=True)})
        for who, figures in values.items()
    ]
    report = replace(
        report_of(make_case("multi_label")),
        metric="micro_f1",
        rows=rows,
        comparison=BaselineComparison("tfidf", Interval(0.029, 0.01, 0.04), "better"),
    )
    assert report.verdict.endswith(
        " It is lower than a baseline in macro_f1 (.163 against .182, TF-IDF + linear), subset_accuracy (.230 against "
        ".296, majority)."
    )
    unsure = replace(report, comparison=replace(report.comparison, outcome="no evidence"))
    assert "lower" not in unsure.verdict


@pytest.mark.slow
def test_equal_models_are_rarely_called_different():
    called = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        targets, logits = predictions(rng.random(150) < 0.8)
        case = replace(make_case("single_label", rows=150), logits=logits, targets=targets)
        baseline = Baseline("tfidf", predictions(rng.random(150) < 0.8)[1])
        settings = EvaluationSettings(resamples=100, metric="accuracy")
        called += (
            report_of(case, baselines=[baseline], settings=settings, seed=seed).comparison.outcome != "no evidence"
        )
    assert 0 < called / 100 < 0.12  # nominal: 0.05


def test_without_a_baseline_there_is_no_comparison():
    case = make_case("regression")
    report = report_of(case)
    assert report.comparison is None
    assert report.verdict == "No baseline has a r2 to compare the model's with."
    # the mean has no correlation to compare with
    report = report_of(case, baselines=[constant(case)], settings=replace(SETTINGS, metric="pearson"))
    assert report.comparison is None
    assert "majority: pearson, spearman undefined." in report.notes


def test_without_resamples_nothing_is_claimed():
    case = make_case("single_label")
    report = report_of(case, baselines=[constant(case)], settings=replace(SETTINGS, resamples=0))
    assert report.comparison.outcome == "no evidence"
    assert "[" not in shown(report, 80).splitlines()[4]


def test_notes():
    case = make_case("single_label", rows=50, weighted=True)
    case = replace(case, targets=case.targets % 2, task=Task("single_label", ("a", "b", "c", "d"), pair=False))
    notes = " ".join(report_of(case, baselines=[Baseline("tfidf", case.logits, "C=2")]).notes)
    assert "Only 50 rows: the intervals" in notes
    assert [counted(count, "row") for count in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]
    assert "support is a sum of weights" in notes
    assert "2 of 4 labels without a measured row: c, d" in notes
    assert "TF-IDF + linear: C=2." in notes
    perfect = replace(
        make_case("single_label", rows=300), logits=np.eye(4)[make_case("single_label", rows=300).targets]
    )
    assert any("up to 1.0% of new rows" in note for note in report_of(perfect).notes)
    two = replace(make_case("single_label", rows=2), logits=np.eye(4)[make_case("single_label", rows=2).targets])
    assert any("up to 77.6% of new rows" in note for note in report_of(two).notes)
    assert report_of(make_case("single_label", rows=300)).notes == []


@pytest.mark.parametrize("width", [80, 120])
def test_the_tables_fit(case, width):
    weak = Baseline("tfidf", case.logits + 1.5 * np.roll(case.logits, 1, axis=0), "C=2")
    text = shown(report_of(case, baselines=[constant(case), weak]), width)
    assert max(map(len, text.splitlines())) <= width
    for name in METRICS[case.task.problem]:
        assert name in text
    assert " ".join(report_of(case, baselines=[constant(case), weak]).verdict.split()) in " ".join(text.split())
    assert ("precision" in text) == (case.task.problem != "regression")


def test_the_worst_labels_come_first_and_long_names_are_cut():
    rng = np.random.default_rng(0)
    names = ("x" * 200, "[red]not markup[/red]", "fine", "good", "better", "best", "absent")
    targets = np.repeat(np.arange(6), 50)
    right = rng.random(300) < 0.2 + 0.15 * targets
    case = make_case("single_label", rows=300, labels=7)
    case = replace(
        case,
        task=Task("single_label", names, pair=False),
        targets=targets,
        logits=np.eye(7)[np.where(right, targets, (targets + rng.integers(1, 6, 300)) % 6)],
    )
    text = shown(report_of(case), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "xxx…" in text
    assert "[red]not markup[/red]" in text
    assert "precision" in text
    assert "worst 5 of 7 labels" in text
    rows = [line.split() for line in text.split("worst 5 of 7 labels")[1].splitlines()]
    scores = [float(row[-1]) for row in rows if len(row) > 4 and row[-1][0] in ".1"]
    assert len(scores) == 5
    assert scores == sorted(scores)
    assert "best " not in text.split("worst 5 of 7 labels")[1].split("No baseline")[0]


@pytest.mark.parametrize(
    ("scale", "written"),
    [
        (1e-9, ".000"),
        (0.01, ".010"),
        (0.9997, "1.00"),
        (1.0, "1.00"),
        (12.34, "12.3"),
        (123.4, "123"),
        (45600, "4.56e+04"),
    ],
)
def test_numbers_of_every_size_are_written_short(scale, written):
    targets = np.zeros(4, np.float32)
    case = replace(make_case("regression", rows=4), targets=targets, logits=np.array([[1], [1], [1], [1]]) * scale)
    line = next(line for line in shown(report_of(case), 80).splitlines() if "mean_absolute_error" in line)
    assert line.split()[1:] == [written, f"[{written},", f"{written}]"]


def test_an_unknown_metric_is_refused():
    with pytest.raises(UserError, match="did you mean 'macro_f1'"):
        report_of(make_case("single_label"), settings=replace(SETTINGS, metric="macrof1"))


def test_figures_are_plain_values():
    report = report_of(make_case("single_label"))
    assert isinstance(report.rows[0].intervals["accuracy"], Interval)
    for figures in report.rows[0].intervals.values():
        assert {type(value) for value in vars(figures).values()} == {float}
