"""What a run reports: the model beside its floors, with intervals and a verdict, as values, JSON and tables.

Knows predictions and figures; neither models nor where a report is stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table
from rich.text import Text

from nlp_transfer.evaluation.baselines import Floor
from nlp_transfer.evaluation.calibration import calibration_error, error_by_chance
from nlp_transfer.evaluation.decisions import abstains
from nlp_transfer.evaluation.formatting import MODEL, number, shown, title_of
from nlp_transfer.evaluation.intervals import Interval, interval, outcome, replicates
from nlp_transfer.evaluation.metrics import LabelScore, compute, per_label, selection_metric
from nlp_transfer.evaluation.names import HIGHER_IS_BETTER, METRICS, sign_of
from nlp_transfer.evaluation.plain_values import read, without_nan
from nlp_transfer.evaluation.tables import COLOURS, simple_table
from nlp_transfer.wording import counted

if TYPE_CHECKING:
    from rich.console import Console

    from nlp_transfer.data.corpus import Examples
    from nlp_transfer.data.task import Task
    from nlp_transfer.settings import EvaluationSettings

_FEW_ROWS = 100
_WORST = 5
_NAMED = 5
_NAME_WIDTH = 40  # leaves room for the figures in 80 columns


@dataclass(frozen=True)
class Row:
    """One predictor: its name ("model" or a floor's) and its metrics."""

    name: str
    intervals: dict[str, Interval]


@dataclass(frozen=True)
class Comparison:
    """The model against its best floor on the same rows.

    Attributes:
        floor: the floor's name.
        difference: the model's metric minus the floor's, with its paired bootstrap interval.
        outcome: better or worse where the whole interval lies on one side of zero, else no evidence.
    """

    floor: str
    difference: Interval
    outcome: str


@dataclass(frozen=True)
class Report:
    """The figures of one split.

    Attributes:
        split: its name; of rows that are not divided into splits, that of their file.
        examples: its rows.
        metric: what the verdict is about.
        confidence: of all intervals.
        rows: the adapted model first, then the floors.
        calibration_error: of the model's probabilities, see `calibration.calibration_error`; nan for regression.
        calibration_error_by_chance: up to which that would be chance, see `calibration.error_by_chance`.
        answered: share of the rows on which the model does not abstain; 1 for one that never does.
        labels: the model's scores for every label; empty for regression.
        notes: sentences a reader of the figures should know.
        comparison: None without a floor that has the metric.
    """

    split: str
    examples: int
    metric: str
    confidence: float
    rows: list[Row]
    calibration_error: float
    calibration_error_by_chance: float
    answered: float
    labels: list[LabelScore]
    notes: list[str]
    comparison: Comparison | None

    @property
    def honesty(self) -> str:
        """How far probabilities are off, and how far by chance; nothing where there are none."""
        if math.isnan(self.calibration_error):
            return ""
        chance = self.calibration_error_by_chance
        known = "" if math.isnan(chance) else f"; chance alone makes up to {number(chance)} of so many rows"
        return f"{number(self.calibration_error)} on average (expected calibration error, 15 bins{known})"

    @property
    def verdict(self) -> str:
        """Whether the model is better than its best floor; of a better one also in what it is not."""
        if self.comparison is None:
            return f"No floor has a {self.metric} to compare the model's with."
        floor, difference = title_of(self.comparison.floor), self.comparison.difference
        values = {row.name: row.intervals[self.metric].value for row in self.rows}
        sentence = {
            "better": f"Better than the best floor, {floor}",
            "worse": f"WORSE than the best floor, {floor}",
            "no evidence": f"No evidence of a difference from the best floor, {floor}",
        }[self.comparison.outcome]
        return (
            f"{sentence}: {self.metric} {number(values[MODEL])} against {number(values[self.comparison.floor])}, "
            f"difference {shown(difference, signed=True)}."
            f"{self._lower() if self.comparison.outcome == 'better' else ''}"
        )

    def _lower(self) -> str:
        """Name the other metrics of which more is better and a floor has more."""
        found = []
        for metric in self.rows[0].intervals:
            model, *floors = ((row.intervals[metric].value, title_of(row.name)) for row in self.rows)
            above = [floor for floor in floors if floor[0] > model[0] and number(floor[0]) != number(model[0])]
            if above and metric != self.metric and HIGHER_IS_BETTER.get(metric):
                value, name = max(above)
                found.append(f"{metric} ({number(model[0])} against {number(value)}, {name})")
        return f" It is lower than a floor in {', '.join(found)}." if found else ""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; what is undefined (nan) is None, and the verdict stands beside the figures."""
        return without_nan(asdict(self)) | {"verdict": self.verdict}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Report:
        """Return the report that `to_json` wrote.

        Raises:
            ValueError: naming what is missing, of another type, or does not fit the rest.
        """
        # Runs from before there were these had neither rule nor figure.
        absent = {"calibration_error": None, "calibration_error_by_chance": None, "answered": 1.0}
        report: Report = read(cls, absent | values if isinstance(values, dict) else values, "report")
        if not report.rows or not 0 < report.confidence < 1:
            raise ValueError("report has no rows or no confidence")
        if not all(math.isfinite(label.support) for label in report.labels):
            raise ValueError("report.labels have no support that is a number")
        metrics = [list(row.intervals) for row in report.rows]
        names = [row.name for row in report.rows]
        if names[0] != MODEL or metrics.count(metrics[0]) < len(metrics):
            raise ValueError("report.rows are not those of a model and its floors")
        if report.metric not in metrics[0]:
            raise ValueError(f"report.metric is not among the metrics of report.rows: {report.metric}")
        against = report.comparison
        if against and (against.floor not in names or against.outcome not in COLOURS):
            raise ValueError("report.comparison is not one with a row of report.rows")
        return report


def evaluate_predictions(
    task: Task,
    examples: Examples,
    logits: np.ndarray,
    *,
    floors: Sequence[Floor],
    settings: EvaluationSettings,
    seed: int,
    split: str,
    said: Sequence[str] = (),
) -> Report:
    """Measure a model and its floors on the same rows and the same resamples of them.

    Args:
        task: the task.
        examples: the evaluated split.
        logits: (rows, outputs) of the model, in the order of the examples.
        floors: of the same rows.
        settings: metric, resamples and confidence.
        seed: of the resamples.
        split: the name of the split, for the report.
        said: sentences on what the rules of the model came to, which go before the other notes.

    Raises:
        UserError: for a metric the problem type does not have, or logits that are nan or infinite.
    """
    metric = selection_metric(task, settings.metric)
    # By id, so that neither the order of the file nor who gathered the rows changes a bit of any figure.
    order = np.argsort(np.asarray(examples.ids), kind="stable")
    targets, weights = examples.targets[order], examples.weights[order]
    predictions = {MODEL: logits[order]} | {floor.name: floor.logits[order] for floor in floors}
    tasks = {MODEL: task} | {floor.name: floor.task(task) for floor in floors}
    replicated = replicates(
        list(tasks.values()),
        list(predictions.values()),
        targets,
        weights,
        metrics=METRICS[task.problem],
        resamples=settings.resamples,
        seed=seed,
    )
    rows, drawn = [], dict(zip(predictions, replicated, strict=True))
    for name, predicted in predictions.items():
        values = compute(tasks[name], predicted, targets, weights)
        figures = {key: interval(values[key], drawn[name][key], confidence=settings.confidence) for key in values}
        rows.append(Row(name, figures))
    labels = per_label(task, logits[order], targets, weights)
    unsure = abstains(task, logits[order])
    notes = [*said, *_notes(rows, labels, weights, floors)]
    if task.problem == "multi_label":
        notes.insert(0, _rule(task))
    if task.abstain_below:
        notes.insert(0, _abstention(task, logits[order], targets, weights, unsure))
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
        comparison=_compare(rows, drawn, metric=metric, confidence=settings.confidence),
    )


def render(report: Report, console: Console) -> None:
    """Print the model beside its floors, its worst classes, the verdict and the notes; fits 80 columns."""
    console.print(_figures(report))
    if report.labels:
        console.print(_worst_labels(report))
    colour = COLOURS[report.comparison.outcome] if report.comparison else "yellow"
    console.print(Text(report.verdict, style=f"bold {colour}"))
    if report.honesty:
        console.print(Text(f"Stated and true probabilities differ by {report.honesty}.", style="dim"))
    for note in report.notes:
        console.print(Text(note, style="dim"))


def _rule(task: Task) -> str:
    if isinstance(task.threshold, float):
        return f"Labels are given from a probability of {task.threshold:.3g} on."
    least, most = min(task.threshold), max(task.threshold)
    return f"Each label is given from a probability of its own on, {least:.3g} to {most:.3g}."


def _abstention(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray, unsure: np.ndarray) -> str:
    """Say what abstaining gains and costs."""
    if task.abstain_below > 1:
        return "It abstains on every row; all figures are of its best guesses."
    share = np.average(unsure, weights=weights)
    words = f"It abstains on {share:.1%} of the rows, where no label reaches a probability of {task.abstain_below:g}"
    if unsure.all():
        return f"{words}; all figures are of its best guesses."
    sure = ~unsure
    accuracy = compute(task, logits[sure], targets[sure], weights[sure])["accuracy"]
    return f"{words}: {number(accuracy)} of the others are right. All figures count its best guess on every row."


def _compare(
    rows: Sequence[Row], drawn: Mapping[str, Mapping[str, np.ndarray]], *, metric: str, confidence: float
) -> Comparison | None:
    sign = sign_of(metric)
    values = {row.name: row.intervals[metric].value for row in rows}
    floors = {name: sign * value for name, value in values.items() if name != MODEL and not math.isnan(value)}
    if not floors or math.isnan(values[MODEL]):
        return None
    best = max(floors, key=floors.__getitem__)
    difference = interval(
        values[MODEL] - values[best], drawn[MODEL][metric] - drawn[best][metric], confidence=confidence
    )
    return Comparison(best, difference, outcome(difference, sign))


def _notes(
    rows: Sequence[Row], labels: Sequence[LabelScore], weights: np.ndarray, floors: Sequence[Floor]
) -> list[str]:
    notes = [f"{title_of(floor.name)}: {floor.detail}." for floor in floors if floor.detail]
    if len(weights) < _FEW_ROWS:
        notes.append(f"Only {counted(len(weights), 'row')}: the intervals themselves are rough.")
    if any(figures.value == figures.low == figures.high == 1 for figures in rows[0].intervals.values()):
        # the bootstrap cannot draw an error that is not there; this is the share that n rows hide in 5 of 100 cases
        hidden = 1 - 0.05 ** (1 / len(weights))
        notes.append(f"No error seen is not no error: up to {hidden:.1%} of new rows may still be wrong.")
    if (weights != 1).any():
        notes.append("Rows count by their weight; support is a sum of weights.")
    absent = [label.name for label in labels if not label.support]
    if absent:
        more = ", …" if len(absent) > _NAMED else ""
        notes.append(
            f"{len(absent):,} of {len(labels):,} labels without a measured row: {', '.join(absent[:_NAMED])}{more}; "
            "the macro average counts one only if it was predicted."
        )
    for row in rows:
        undefined = [metric for metric, figures in row.intervals.items() if math.isnan(figures.value)]
        if undefined:
            notes.append(f"{title_of(row.name)}: {', '.join(undefined)} undefined.")
    return notes


def _figures(report: Report) -> Table:
    # Text: a name of a file may hold what rich takes for markup
    title = Text(f"{report.split}: {counted(report.examples, 'row')}, {100 * report.confidence:g}% intervals")
    table = simple_table(title)
    table.add_column("", no_wrap=True)
    for row in report.rows:
        table.add_column(title_of(row.name), style="" if row.name == MODEL else "dim")
    for metric in report.rows[0].intervals:
        name = Text(metric, style="bold" if metric == report.metric else "")
        table.add_row(name, *(shown(row.intervals[metric]) for row in report.rows))
    return table


def _worst_labels(report: Report) -> Table:
    known = [label for label in report.labels if not math.isnan(label.f1)]
    worst = sorted(known, key=lambda label: (label.f1, -label.support))[:_WORST]
    title = "labels" if len(worst) == len(report.labels) else f"worst {len(worst)} of {len(report.labels):,} labels"
    table = simple_table(title, gap=2)
    table.add_column("", no_wrap=True)
    for column in ("rows", "precision", "recall", "f1"):
        table.add_column(column, justify="right", no_wrap=True)
    for label in worst:
        support = f"{label.support:,.0f}" if label.support == round(label.support) else f"{label.support:,.1f}"
        name = Text(" ".join(label.name.split()))  # Text: a name may hold what rich takes for markup
        name.truncate(_NAME_WIDTH, overflow="ellipsis")
        table.add_row(name, support, number(label.precision), number(label.recall), number(label.f1))
    return table
