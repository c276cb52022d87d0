"""The report of a run: the model beside its baselines, with intervals and a verdict, as values, JSON and tables.

Works on predictions; knows neither models nor where a report is stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table
from rich.text import Text

from nlp_transfer.evaluation.baselines import Baseline
from nlp_transfer.evaluation.calibration import calibration_error, error_by_chance
from nlp_transfer.evaluation.decisions import abstains
from nlp_transfer.evaluation.formatting import MODEL, format_interval, number, title_of
from nlp_transfer.evaluation.intervals import Bootstrap, Interval, outcome
from nlp_transfer.evaluation.metrics import LabelScore, compute, per_label, selection_metric
from nlp_transfer.evaluation.names import HIGHER_IS_BETTER, METRICS, sign_of
from nlp_transfer.evaluation.plain_values import read, without_nan
from nlp_transfer.evaluation.tables import COLOURS, print_table, simple_table
from nlp_transfer.wording import counted

if TYPE_CHECKING:
    from rich.console import Console

    from nlp_transfer.data.corpus import Examples
    from nlp_transfer.data.task import Task
    from nlp_transfer.settings import EvaluationSettings

_FEW_ROWS = 100
_MOST_WORST_LABELS = 5
_MOST_NAMES = 5  # of labels without rows
_NAME_WIDTH = 40  # leaves room for the figures in 80 columns


@dataclass(frozen=True)
class PredictorScores:
    """One predictor: its name ("model" or a baseline's) and its metrics with intervals."""

    name: str
    intervals: dict[str, Interval]


@dataclass(frozen=True)
class BaselineComparison:
    """The model against its best baseline on the same rows.

    Attributes:
        floor: the baseline's name (a key of `metrics.json`).
        difference: the model's metric minus the baseline's, with its paired bootstrap interval.
        outcome: better or worse where the whole interval lies on one side of zero, else no evidence.
    """

    floor: str
    difference: Interval
    outcome: str


@dataclass(frozen=True)
class Report:
    """The figures of one split.

    Attributes:
        split: its name; for rows without splits, the name of their file.
        examples: the number of rows.
        metric: the metric that the verdict is based on.
        confidence: of all intervals.
        rows: the adapted model first, then the baselines.
        calibration_error: of the model's probabilities, see `calibration.calibration_error`; nan for regression.
        calibration_error_by_chance: the largest error that chance explains, see `calibration.error_by_chance`.
        answered: the share of rows on which the model does not abstain.
        labels: the model's scores for every label; empty for regression.
        notes: sentences that a reader of the figures should know.
        comparison: with the best baseline; None if no baseline has the metric.
    """

    split: str
    examples: int
    metric: str
    confidence: float
    rows: list[PredictorScores]
    calibration_error: float
    calibration_error_by_chance: float
    answered: float
    labels: list[LabelScore]
    notes: list[str]
    comparison: BaselineComparison | None

    @property
    def calibration_text(self) -> str:
        """The calibration error in words, and how much of it chance explains; empty for regression."""
        if math.isnan(self.calibration_error):
            return ""
        chance = self.calibration_error_by_chance
        by_chance = "" if math.isnan(chance) else f"; up to {number(chance)} can be due to chance with this many rows"
        return f"{number(self.calibration_error)} on average (expected calibration error, 15 bins{by_chance})"

    @property
    def verdict(self) -> str:
        """A sentence on whether the model is better than its best baseline, and in which metrics it still is not."""
        if self.comparison is None:
            return f"No baseline has a {self.metric} to compare the model's with."
        baseline, difference = title_of(self.comparison.floor), self.comparison.difference
        values = {row.name: row.intervals[self.metric].value for row in self.rows}
        sentence = {
            "better": f"Better than the best baseline, {baseline}",
            "worse": f"WORSE than the best baseline, {baseline}",
            "no evidence": f"No evidence of a difference from the best baseline, {baseline}",
        }[self.comparison.outcome]
        return (
            f"{sentence}: {self.metric} {number(values[MODEL])} against {number(values[self.comparison.floor])}, "
            f"difference {format_interval(difference, signed=True)}."
            f"{self._worse_metrics() if self.comparison.outcome == 'better' else ''}"
        )

    def _worse_metrics(self) -> str:
        """Name the other higher-is-better metrics in which a baseline beats the model."""
        worse = []
        for metric in self.rows[0].intervals:
            if metric == self.metric or not HIGHER_IS_BETTER.get(metric):
                continue
            model, *baselines = ((row.intervals[metric].value, title_of(row.name)) for row in self.rows)
            above = [
                baseline for baseline in baselines if baseline[0] > model[0] and number(baseline[0]) != number(model[0])
            ]
            if above:
                value, name = max(above)
                worse.append(f"{metric} ({number(model[0])} against {number(value)}, {name})")
        return f" It is lower than a baseline in {', '.join(worse)}." if worse else ""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, with None in place of nan, and the verdict."""
        return without_nan(asdict(self)) | {"verdict": self.verdict}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Report:
        """Read the report that `to_json` returned.

        Raises:
            ValueError: naming what is missing, of another type, or inconsistent.
        """
        # Runs of earlier versions lack these.
        defaults = {"calibration_error": None, "calibration_error_by_chance": None, "answered": 1.0}
        report: Report = read(cls, defaults | values if isinstance(values, dict) else values, "report")
        if not report.rows or not 0 < report.confidence < 1:
            raise ValueError("report has no rows or no confidence")
        if not all(math.isfinite(label.support) for label in report.labels):
            raise ValueError("report.labels have no support that is a number")
        metrics = [list(row.intervals) for row in report.rows]
        names = [row.name for row in report.rows]
        if names[0] != MODEL or metrics.count(metrics[0]) < len(metrics):
            raise ValueError("report.rows are not those of a model and its baselines")
        if report.metric not in metrics[0]:
            raise ValueError(f"report.metric is not among the metrics of report.rows: {report.metric}")
        comparison = report.comparison
        if comparison and (comparison.floor not in names or comparison.outcome not in COLOURS):
            raise ValueError("report.comparison is not one with a row of report.rows")
        return report


def evaluate_predictions(
    task: Task,
    examples: Examples,
    logits: np.ndarray,
    *,
    baselines: Sequence[Baseline],
    settings: EvaluationSettings,
    seed: int,
    split: str,
    decision_notes: Sequence[str] = (),
) -> Report:
    """Measure a model and its baselines on the same rows and the same bootstrap resamples.

    Args:
        task: the task.
        examples: the evaluated split.
        logits: (rows, outputs) of the model, in the order of the examples.
        baselines: of the same rows.
        settings: metric, resamples and confidence.
        seed: of the resamples.
        split: the name of the split, for the report.
        decision_notes: sentences on the effect of the model's decision rules, put before the other notes.

    Raises:
        UserError: for a metric the problem type does not have, or logits that are nan or infinite.
    """
    metric = selection_metric(task, settings.metric)
    # Sorted by id, so that figures do not depend on the order of the file or of gathering, to the last bit.
    order = np.argsort(np.asarray(examples.ids), kind="stable")
    targets, weights = examples.targets[order], examples.weights[order]
    predictions = {MODEL: logits[order]} | {baseline.name: baseline.logits[order] for baseline in baselines}
    tasks = {MODEL: task} | {baseline.name: baseline.with_threshold(task) for baseline in baselines}
    bootstrap = Bootstrap.of(settings, seed=seed)
    replicated = bootstrap.replicates(
        list(tasks.values()), list(predictions.values()), targets, weights, metrics=METRICS[task.problem]
    )
    rows, drawn = [], dict(zip(predictions, replicated, strict=True))
    for name, predicted in predictions.items():
        values = compute(tasks[name], predicted, targets, weights)
        figures = {key: bootstrap.interval(values[key], drawn[name][key]) for key in values}
        rows.append(PredictorScores(name, figures))
    labels = per_label(task, logits[order], targets, weights)
    unsure = abstains(task, logits[order])
    notes = [*decision_notes, *_notes(rows, labels, weights, baselines)]
    if task.problem == "multi_label":
        notes.insert(0, _threshold_note(task))
    if task.abstain_below:
        notes.insert(0, _abstention_note(task, logits[order], targets, weights, unsure))
    return Report(
        split=split,
        examples=len(order),
        metric=metric,
        confidence=settings.confidence,
        rows=rows,
        calibration_error=calibration_error(task, logits[order], targets, weights),
        calibration_error_by_chance=error_by_chance(
            task, logits[order], targets, weights, confidence=settings.confidence, seed=seed
        ),
        answered=float(1 - np.average(unsure, weights=weights)),
        labels=labels,
        notes=notes,
        comparison=_compare(rows, drawn, metric=metric, bootstrap=bootstrap),
    )


def render(report: Report, console: Console) -> None:
    """Print the model beside its baselines, its worst labels, the verdict and the notes; fits 80 columns."""
    print_table(_metrics_table(report), console)
    if report.labels:
        print_table(_worst_labels(report), console, gap=2)
    colour = COLOURS[report.comparison.outcome] if report.comparison else "yellow"
    console.print(Text(report.verdict, style=f"bold {colour}"))
    if report.calibration_text:
        console.print(Text(f"Stated and true probabilities differ by {report.calibration_text}.", style="dim"))
    for note in report.notes:
        console.print(Text(note, style="dim"))


def _threshold_note(task: Task) -> str:
    if isinstance(task.threshold, float):
        return f"Labels are given at a probability of {task.threshold:.3g} or more."
    least, most = min(task.threshold), max(task.threshold)
    return f"Each label has its own probability threshold, {least:.3g} to {most:.3g}."


def _abstention_note(
    task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray, unsure: np.ndarray
) -> str:
    """Say on how many rows the model abstains, and how accurate it is on the others."""
    if task.abstain_below > 1:
        return "It abstains on every row; all figures use its best guesses."
    share = np.average(unsure, weights=weights)
    words = f"It abstains on {share:.1%} of the rows, where no label reaches a probability of {task.abstain_below:g}"
    if unsure.all():
        return f"{words}; all figures use its best guesses."
    sure = ~unsure
    accuracy = compute(task, logits[sure], targets[sure], weights[sure])["accuracy"]
    return f"{words}: {number(accuracy)} of the others are right. All figures use its best guess on every row."


def _compare(
    rows: Sequence[PredictorScores], drawn: Mapping[str, Mapping[str, np.ndarray]], *, metric: str, bootstrap: Bootstrap
) -> BaselineComparison | None:
    sign = sign_of(metric)
    values = {row.name: row.intervals[metric].value for row in rows}
    baselines = {name: sign * value for name, value in values.items() if name != MODEL and not math.isnan(value)}
    if not baselines or math.isnan(values[MODEL]):
        return None
    best = max(baselines, key=baselines.__getitem__)
    difference = bootstrap.interval(values[MODEL] - values[best], drawn[MODEL][metric] - drawn[best][metric])
    return BaselineComparison(best, difference, outcome(difference, sign))


def _notes(
    rows: Sequence[PredictorScores], labels: Sequence[LabelScore], weights: np.ndarray, baselines: Sequence[Baseline]
) -> list[str]:
    notes = [f"{title_of(baseline.name)}: {baseline.detail}." for baseline in baselines if baseline.detail]
    if len(weights) < _FEW_ROWS:
        notes.append(f"Only {counted(len(weights), 'row')}: the intervals are imprecise.")
    if any(figures.value == figures.low == figures.high == 1 for figures in rows[0].intervals.values()):
        # The bootstrap cannot draw an error that did not occur; this is the exact upper bound at 95 % confidence.
        bound = 1 - 0.05 ** (1 / len(weights))
        notes.append(f"No error was found on these rows; up to {bound:.1%} of new rows may still be wrong.")
    if (weights != 1).any():
        notes.append("Rows count by their weight; support is a sum of weights.")
    absent = [label.name for label in labels if not label.support]
    if absent:
        more = ", …" if len(absent) > _MOST_NAMES else ""
        notes.append(
            f"{len(absent):,} of {len(labels):,} labels without a measured row: {', '.join(absent[:_MOST_NAMES])}"
            f"{more}; the macro average counts one only if it was predicted."
        )
    for row in rows:
        undefined = [metric for metric, figures in row.intervals.items() if math.isnan(figures.value)]
        if undefined:
            notes.append(f"{title_of(row.name)}: {', '.join(undefined)} undefined.")
    return notes


def _metrics_table(report: Report) -> Table:
    # As Text, because a file name may contain what rich takes for markup.
    title = Text(f"{report.split}: {counted(report.examples, 'row')}, {100 * report.confidence:g}% intervals")
    table = simple_table(title)
    table.add_column("", no_wrap=True)
    for row in report.rows:
        table.add_column(title_of(row.name), style="" if row.name == MODEL else "dim")
    for metric in report.rows[0].intervals:
        name = Text(metric, style="bold" if metric == report.metric else "")
        table.add_row(name, *(format_interval(row.intervals[metric]) for row in report.rows))
    return table


def _worst_labels(report: Report) -> Table:
    scored = [label for label in report.labels if not math.isnan(label.f1)]
    worst = sorted(scored, key=lambda label: (label.f1, -label.support))[:_MOST_WORST_LABELS]
    title = "labels" if len(worst) == len(report.labels) else f"worst {len(worst)} of {len(report.labels):,} labels"
    table = simple_table(title, gap=2)
    table.add_column("", no_wrap=True)
    for column in ("rows", "precision", "recall", "f1"):
        table.add_column(column, justify="right", no_wrap=True)
    for label in worst:
        support = f"{label.support:,.0f}" if label.support == round(label.support) else f"{label.support:,.1f}"
        name = Text(" ".join(label.name.split()))  # as Text, because a label may contain what rich takes for markup
        name.truncate(_NAME_WIDTH, overflow="ellipsis")
        table.add_row(name, support, number(label.precision), number(label.recall), number(label.f1))
    return table
