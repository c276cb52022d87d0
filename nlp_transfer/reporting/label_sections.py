"""Report sections on labels: confusion matrix, scores by label, calibration and confidence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from nlp_transfer.data.task import Task
from nlp_transfer.evaluation.calibration import reliability
from nlp_transfer.evaluation.decisions import probabilities
from nlp_transfer.evaluation.formatting import format_interval, number, percentage
from nlp_transfer.evaluation.sums import label_shares
from nlp_transfer.reporting import figures, measures
from nlp_transfer.reporting.document import Beside, Block, Cell, Drawing, Prose, Section, Table
from nlp_transfer.reporting.evidence import Evidence
from nlp_transfer.reporting.matrix import NUMBERED, confusion_matrix
from nlp_transfer.wording import shortened

_MOST_PAIRS = 20  # of confused labels
_MOST_IN_MATRIX = 1000  # labels
_MOST_SORTED = 5_000_000  # probabilities, for a precision-recall curve
_MOST_RESAMPLED = 100_000  # probabilities, for the interval of an area
_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)  # examples of decision.abstain_below
_RESAMPLES = 200  # for the interval of an area, at most
_NARROW = 8  # labels whose matrix leaves room for a table beside it
_MOST_UNFOLDED = 25  # labels
_NAME_LENGTH = 80  # characters
_WORST = 3  # labels with a curve of their own


def confusion(evidence: Evidence) -> Section:
    """Return the confusion matrix and the most frequent mistakes; empty unless each row has one label."""
    task = evidence.task
    if task.problem not in ("single_label", "ordinal") or len(task.labels) > _MOST_IN_MATRIX:
        return Section("", [])
    counts = measures.confusions(task, evidence.model.logits, evidence.examples.targets, evidence.examples.weights)
    numbered, ordered = len(task.labels) <= NUMBERED, task.problem == "ordinal"
    order = np.arange(len(counts)) if numbered or ordered else measures.neighbours(counts)
    names = [task.labels[label] for label in order]
    title = f"Confusion matrix of {len(names):,} labels"
    caption = (
        "Each row is a true label, each column a predicted one; the darker, the larger the share of the row. Blue is "
        "right, orange is wrong."
    )
    if not numbered:
        caption += (
            " Labels that are confused with each other are placed side by side: orange blocks near the diagonal are "
            "groups that the model does not distinguish."
        ) * (not ordered) + " Scroll to see all of it."
    drawing = Drawing(confusion_matrix(counts[np.ix_(order, order)], names, label=title), caption, wide=True)
    pairs = measures.largest_confusions(counts, _MOST_PAIRS)
    if pairs:
        short = [shortened(label, _NAME_LENGTH) for label in task.labels]
        rows: list[list[str | Cell]] = [
            [short[true], short[given], f"{count:,.4g}", Cell(f"{share:.1%}", share=share)]
            for true, given, count, share in pairs
        ]
        head = ["true", "given", "rows", "share of true"]
        table = Table(head, rows, words=2, caption="The most frequent mistakes.")
        blocks: list[Block] = [Beside(drawing, table)] if len(names) <= _NARROW else [drawing, table]
    else:
        blocks = [drawing, Prose("Every row got its true label.")]
    return Section("Confusions", blocks)


def scores(evidence: Evidence) -> Section:
    """Return support, precision, recall and F1 of every label with intervals, worst first."""
    report, task = evidence.report, evidence.task
    if not task.labels:
        return Section("", [])
    intervals = measures.label_intervals(
        task, evidence.model.logits, evidence.examples.targets, evidence.examples.weights, evidence.bootstrap
    )
    f1 = [math.inf if math.isnan(each["f1"].value) else each["f1"].value for each in intervals]  # undefined ones last
    rows: list[list[str | Cell]] = [
        [
            shortened(task.labels[label], _NAME_LENGTH),
            f"{report.labels[label].support:,.10g}",
            format_interval(intervals[label]["precision"]),
            format_interval(intervals[label]["recall"]),
            _with_bar(format_interval(intervals[label]["f1"]), intervals[label]["f1"].value),
        ]
        for label in sorted(range(len(f1)), key=lambda label: (f1[label], label))
    ]
    caption = (
        f"The worst first, with {100 * report.confidence:g}% bootstrap intervals, which are wide for labels with few "
        "rows; the order of such labels is uncertain."
    )
    folded = f"All {len(rows):,} labels" if len(rows) > _MOST_UNFOLDED else None
    return Section(
        "Label by label", [Table(["label", "rows", "precision", "recall", "F1"], rows, caption=caption, folded=folded)]
    )


def _with_bar(words: str, value: float) -> Cell:
    return Cell(words, share=None if math.isnan(value) else value)


def confidence(evidence: Evidence) -> Section:
    """Return the reliability diagram, risk against coverage, and precision against recall."""
    if evidence.task.problem == "regression":
        return Section("", [])
    diagram, table = _reliability(evidence)
    return Section("Confidence", [diagram, *_risk(evidence), *_precision_recall(evidence), table])


def _reliability(evidence: Evidence) -> tuple[Drawing, Table]:
    report, examples = evidence.report, evidence.examples
    bins = reliability(evidence.task, evidence.model.logits, examples.targets, examples.weights)
    brier = format_interval(report.rows[0].intervals["brier"])
    subject = "every label of every row" if evidence.task.problem == "multi_label" else "the predicted label"
    drawing = Drawing(
        figures.reliability(bins.edges, bins.stated, bins.true, bins.rows, name="reliability"),
        f"Reliability of the probability of {subject}: points below the dashed line are overconfident, points above "
        f"it underconfident; bars count predictions. Stated and true probabilities differ by "
        f"{report.calibration_text}. Brier score: {brier}; 0 would be perfect.",
    )
    rows = [
        [
            f"{bins.edges[each]:.2f}–{bins.edges[each + 1]:.2f}",
            f"{bins.rows[each]:,}",
            number(float(bins.stated[each])),
            number(float(bins.true[each])),
        ]
        for each in np.flatnonzero(bins.rows)
    ]
    head = ["probability", "predictions", "stated, mean", "true"]
    return drawing, Table(head, rows, folded="Reliability, bin by bin")


def _risk(evidence: Evidence) -> Iterator[Block]:
    task, examples = evidence.task, evidence.examples
    if task.problem == "multi_label":
        return
    logits = evidence.model.logits

    def of_weights(weights: np.ndarray) -> measures.Curve:
        return measures.risk_coverage(task, logits, examples.targets, weights)

    curve, area = of_weights(examples.weights), _area(evidence, of_weights, len(logits))
    halves = ", ".join(
        f"{float(np.interp(share, curve.x, curve.y)):.1%} of the most confident {share:.0%}"
        for share in (0.5, 0.8, 1.0)
    )
    rule, mark = "", None
    if task.abstain_below:
        mark = evidence.report.answered
        rule = f" Dotted: {_rule(task)}."
    yield Drawing(
        figures.lines(
            [figures.Line("model", curve.x, curve.y)],
            name="risk",
            label="Error among the rows kept against the share of rows kept",
            x="share of rows kept, the most confident first",
            y="error among them",
            mark=mark,
        ),
        f"If it only predicted where it is most confident, it would be wrong on {halves}. Area under the curve {area} "
        f"(lower is better; Geifman & El-Yaniv 2017).{rule}",
    )
    answered = measures.abstention_effects(
        task, logits, examples.targets, examples.weights, _THRESHOLDS, confidence=evidence.report.confidence
    )
    yield Table(
        ["decision.abstain_below", "answered", "wrong among them"],
        [[f"{each.above:g}", f"{each.share:.1%}", format_interval(each.error)] for each in answered],
        folded="Abstention thresholds",
    )


def _rule(task: Task) -> str:
    """Describe where a model abstains."""
    purpose = f", so that at most {percentage(task.risk)} of its labels are wrong (decision.risk)" if task.risk else ""
    if task.abstain_below > 1:
        return f"it abstains everywhere{purpose}"
    return f"where it abstains, below a probability of {task.abstain_below:g}{purpose}"


def _area(evidence: Evidence, curve_of: Callable[[np.ndarray], measures.Curve], answers: int) -> str:
    """Return the area under a curve of weighted rows with its interval, which is left out if it would take long."""
    weights = np.asarray(evidence.examples.weights, dtype=np.float64)
    resamples = min(evidence.bootstrap.resamples, _RESAMPLES) if answers <= _MOST_RESAMPLED else 0
    area = measures.area(curve_of, weights, replace(evidence.bootstrap, resamples=resamples))
    return format_interval(area)


def _precision_recall(evidence: Evidence) -> Iterator[Block]:
    task, targets = evidence.task, evidence.examples.targets
    if len(targets) * len(task.labels) > _MOST_SORTED:
        return
    likely, true = probabilities(task, evidence.model.logits), label_shares(task, targets).toarray()
    weights = np.asarray(evidence.examples.weights, dtype=np.float64)
    present = np.flatnonzero((true * weights[:, None]).sum(axis=0) > 0)
    if not len(present):
        return

    def curve_of_labels(columns: np.ndarray) -> Callable[[np.ndarray], measures.Curve]:
        stated, truth = likely[:, columns].ravel(), true[:, columns].ravel()
        return lambda weights: measures.precision_recall(stated, truth, np.repeat(weights, len(columns)))

    by_label = {label: curve_of_labels(np.array([label])) for label in present}
    has_average = len(task.labels) > 2 or task.problem == "multi_label"
    worst = sorted(present, key=lambda label: by_label[label](weights).area)[: _WORST if has_average else 2]
    curves = [(task.labels[label], by_label[label], 1) for label in worst]
    subject = "each label"
    if has_average:
        columns = np.arange(len(task.labels))
        curves.insert(0, ("all labels together", curve_of_labels(columns), len(columns)))
        subject = "all labels together (micro-average) and the worst labels"
    points = [(name, curve_of(weights)) for name, curve_of, _ in curves]
    areas = ", ".join(f"{_area(evidence, curve_of, len(targets) * labels)} {name}" for name, curve_of, labels in curves)
    yield Drawing(
        figures.lines(
            [figures.Line(name, curve.x, curve.y) for name, curve in points],
            name="precision-recall",
            label="Precision against recall",
            x="recall",
            y="precision",
            whole=True,
        ),
        f"Precision against recall of {subject}, for every threshold; the closer to the upper right, the better. "
        f"Average precision: {areas}.",
    )
