"""The first and last parts of a report: verdict and figures beside the baselines; training curves and costs."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from nlp_transfer.evaluation.formatting import MODEL, format_interval, number, title_of
from nlp_transfer.evaluation.names import HIGHER_IS_BETTER, sign_of
from nlp_transfer.evaluation.report import Report
from nlp_transfer.reporting import figures
from nlp_transfer.reporting.document import Block, Bullets, Cell, Drawing, Facts, Prose, Section, Table
from nlp_transfer.reporting.evidence import Evidence
from nlp_transfer.wording import counted


def lead(evidence: Evidence) -> list[Block]:
    """Return the verdict, the table of metrics, the facts of the run and the notes."""
    report = evidence.report
    blocks: list[Block] = [Prose(report.verdict, strong=True), figures_table(report), Facts(evidence.facts)]
    return [*blocks, Bullets(report.notes)] if report.notes else blocks


def figures_table(report: Report) -> Table:
    """Return the metrics of all predictors; the best of a line is bold if chance does not explain it."""
    names = [row.name for row in report.rows]
    rows: list[list[str | Cell]] = [
        [
            metric,
            *(
                Cell(format_interval(row.intervals[metric]), strong=row.name == _clear_winner(report, metric))
                for row in report.rows
            ),
        ]
        for metric in report.rows[0].intervals
    ]
    caption = (
        f"{counted(report.examples, 'row')} of {report.split}, with {100 * report.confidence:g}% bootstrap intervals. "
        f"Bold: significantly better than the best baseline for {report.metric}, the metric of the verdict; for other "
        "metrics, than all."
    )
    return Table(["", *map(title_of, names)], rows, caption=caption)


def _clear_winner(report: Report, metric: str) -> str | None:
    """Return the clearly best predictor: by the paired comparison for its metric, else by disjoint intervals."""
    if metric == report.metric:
        comparison = report.comparison
        if comparison is None or comparison.outcome == "no evidence":
            return None
        return MODEL if comparison.outcome == "better" else comparison.floor
    sign = sign_of(metric)
    spans = {
        row.name: sorted((sign * row.intervals[metric].low, sign * row.intervals[metric].high)) for row in report.rows
    }
    if len(spans) < 2 or any(math.isnan(end) for span in spans.values() for end in span):
        return None
    best = max(spans, key=lambda name: spans[name][0])
    return best if all(spans[best][0] > high for name, (_, high) in spans.items() if name != best) else None


def training(evidence: Evidence) -> Section:
    """Return the training curves, if it trained in steps, and the costs."""
    blocks: list[Block] = [*_curves(evidence)]
    if evidence.costs:
        blocks.append(Facts(evidence.costs))
    return Section("Training and cost", blocks)


def _curves(evidence: Evidence) -> Iterator[Block]:
    losses = [
        (line["step"], line["loss"]) for line in evidence.steps if line.get("loss") is not None and "split" not in line
    ]
    metric = evidence.report.metric
    measured = [
        (line["step"], line[metric])
        for line in evidence.steps
        if line.get("split") == "validation" and line.get(metric) is not None
    ]
    if len(losses) < 2:
        return
    steps, values = np.array(losses, dtype=np.float64).T
    at, scores = np.array(measured, dtype=np.float64).reshape(-1, 2).T
    line = figures.Line(metric, at, scores) if len(at) else None
    best = ""
    if len(at):
        pick = np.argmax if HIGHER_IS_BETTER[metric] else np.argmin
        best = f" Below: {metric} on validation, best at step {at[pick(scores)]:,.0f} ({number(scores[pick(scores)])})."
    yield Drawing(
        figures.training(steps, values, line, name="training"),
        f"The loss of every step (thin) and its running mean (thick). It should fall and flatten out.{best}",
    )
