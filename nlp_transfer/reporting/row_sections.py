"""Report sections on rows: regression errors, text lengths, domains, rows not seen in training, hardest rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from nlp_transfer.data.sources import SPLIT_NAMES
from nlp_transfer.evaluation.formatting import format_interval, number, title_of
from nlp_transfer.reporting import figures, measures, rows
from nlp_transfer.reporting.document import Block, Drawing, Prose, Section, Table
from nlp_transfer.reporting.evidence import Evidence
from nlp_transfer.wording import shortened

_MOST_DOMAINS = 12
_HARDEST = 20
_TEXT_LENGTH = 300  # characters
_MOST_POINTS = 1000  # of a scatter plot
_GENERATED_ID = re.compile(rf"({'|'.join(SPLIT_NAMES)})-\d+")  # see `Examples.ids`
_MIN_ROWS = 10  # for a score without repeated rows


def numbers(evidence: Evidence) -> Section:
    """Return predicted against true numbers and the errors; empty unless regression."""
    if evidence.task.problem != "regression":
        return Section("", [])
    present = evidence.examples.weights > 0
    true = evidence.examples.targets[present].astype(np.float64)
    predicted = evidence.model.logits.reshape(-1)[present].astype(np.float64)
    errors = predicted - true
    sample = np.unique(np.linspace(0, len(true) - 1, min(len(true), _MOST_POINTS)).round().astype(np.int64))
    sample_note = f" {len(sample):,} of {len(true):,} rows are shown." if len(sample) < len(true) else ""

    def signed(value: np.floating) -> str:
        return number(float(value), signed=True)

    return Section(
        "Numbers",
        [
            Drawing(
                figures.agreement(true[sample], predicted[sample], name="agreement"),
                "Each point is a row; on the dashed line prediction and truth are equal. A cloud flatter than the line "
                f"is a model that avoids extreme values.{sample_note}",
            ),
            Drawing(
                figures.histogram(errors, name="residuals", label="Errors of the predictions", x="predicted − true"),
                f"Errors: mean {signed(errors.mean())}, standard deviation {number(float(errors.std()))}; half of "
                f"them lie between {signed(np.quantile(errors, 0.25))} and {signed(np.quantile(errors, 0.75))}.",
            ),
        ],
    )


def groups(evidence: Evidence) -> Section:
    """Return the scores of the model and its best baseline by text length and by domain."""
    examples = evidence.examples
    lengths = measures.length_groups(examples.characters)
    blocks = [*_grouped(evidence, lengths, "length", "characters", "by length of the text")]
    if examples.domains is not None:
        blocks += _grouped(evidence, _domains(examples.domains), "domain", "domain", "by domain")
    return Section("Strengths and weaknesses", blocks)


def _domains(names: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """Return the rows of the largest domains, and of all others together."""
    counts = Counter(names)
    by_size = sorted(counts, key=lambda name: (-counts[name], name))
    largest = by_size if len(by_size) <= _MOST_DOMAINS else by_size[: _MOST_DOMAINS - 1]
    domains = np.asarray(names, dtype=object)
    members = [(name or "(none)", np.flatnonzero(domains == name)) for name in largest]
    rest = np.flatnonzero(~np.isin(domains, largest))
    return [*members, (f"{len(by_size) - len(largest)} others", rest)] if len(rest) else members


def _grouped(
    evidence: Evidence, parts: Sequence[tuple[str, np.ndarray]], name: str, head: str, by: str
) -> Iterator[Block]:
    weights = evidence.examples.weights
    parts = [(group, members) for group, members in parts if weights[members].sum() > 0]
    if len(parts) < 2:
        return
    metric = measures.GROUP_METRIC[evidence.task.problem]
    scored = measures.grouped_scores(
        evidence.compared,
        evidence.examples.targets,
        weights,
        parts,
        metric=metric,
        bootstrap=evidence.bootstrap,
    )
    titles = [title_of(each.name) for each in evidence.compared]
    scores = [
        (title, np.array([[g.scores[place].value, g.scores[place].low, g.scores[place].high] for g in scored]))
        for place, title in enumerate(titles)
    ]
    yield Drawing(
        figures.group_scores([group.name for group in scored], scores, name=name, score=metric),
        f"{metric} {by}, with intervals. Where the intervals of two groups overlap widely, the difference between them "
        "may be chance.",
    )
    table = [[group.name, f"{group.rows:,}", *map(format_interval, group.scores)] for group in scored]
    yield Table([head, "rows", *titles], table, folded=f"{metric} {by}, in numbers")


def unseen(evidence: Evidence) -> Section:
    """Return the score on rows whose text does not occur in the training split."""
    if evidence.train is None:
        return Section("", [])
    report, examples = evidence.report, evidence.examples
    repeat_free = rows.unseen(evidence.train, examples)
    title = "Without rows that repeat training rows"
    near = (
        "near repeats were not searched, because there is too much text"
        if repeat_free.near is None
        else f"{_count(repeat_free.near, 'is', 'are')} nearly the same as one (four fifths of the character 4-grams)"
    )
    exact = _count(repeat_free.exact, "has", "have")
    summary = f"Of {len(examples):,} measured rows {exact} a text of the training rows; {near}."
    if len(repeat_free.rows) == len(examples):
        return Section(title, [Prose(f"{summary} So repeated rows do not raise the scores.")])
    if len(repeat_free.rows) < _MIN_ROWS or not examples.weights[repeat_free.rows].sum() > 0:
        return Section(title, [Prose(f"{summary} The {len(repeat_free.rows):,} others are too few for a score.")])
    metric = report.metric
    (others,) = measures.grouped_scores(
        evidence.compared,
        examples.targets,
        examples.weights,
        [("without repeats", repeat_free.rows)],
        metric=metric,
        bootstrap=evidence.bootstrap,
    )
    overall = {row.name: row.intervals[metric] for row in report.rows}
    table = [
        ["all rows", f"{len(examples):,}", *(format_interval(overall[each.name]) for each in evidence.compared)],
        [others.name, f"{others.rows:,}", *map(format_interval, others.scores)],
    ]
    head = ["", "rows", *(f"{title_of(each.name)}, {metric}" for each in evidence.compared)]
    return Section(title, [Prose(summary), Table(head, table)])


def _count(count: int, singular: str, plural: str) -> str:
    return f"{count or 'none'} {singular}" if count < 2 else f"{count:,} {plural}"


def hardest(evidence: Evidence) -> Section:
    """Return the rows with the most confident mistakes."""
    task, examples = evidence.task, evidence.examples
    mistakes = rows.worst(task, evidence.model.logits, examples.targets, examples.weights, most=_HARDEST)
    title = "The hardest rows"
    if not mistakes:
        return Section(title, [Prose(f"None of the {len(examples):,} rows was predicted wrongly.")])
    score = "error" if task.problem == "regression" else "probability"
    texts = ["text"] if examples.pairs is None else ["first text", "second text"]
    head = ["row", *texts, "true", "given", *(["most wrong label"] if task.problem == "multi_label" else []), score]
    table = [
        [
            examples.ids[each.row],
            _cut(examples.texts[each.row]),
            *([] if examples.pairs is None else [_cut(examples.pairs[each.row])]),
            each.true,
            each.given,
            *([each.about] if task.problem == "multi_label" else []),
            number(each.sure),
        ]
        for each in mistakes
    ]
    caption = {
        "regression": "The largest errors first.",
        "multi_label": "The label with the most confident wrong decision, and its probability.",
    }.get(task.problem, "Wrong predictions, the most confident first, with the probability of the predicted label.")
    caption += " A wrong label in the data is as likely a reason as a wrong model: read them."
    if any(_GENERATED_ID.fullmatch(examples.ids[each.row]) for each in mistakes):
        caption += (
            " Rows without an id are named by the split they were read from, of which some may have been split off for "
            "measuring, and by their number in it, not counting a header."
        )
    long = range(1, 1 + len(texts))
    return Section(title, [Table(head, table, words=len(head) - 1, caption=caption, long_words=tuple(long))])


def _cut(text: str) -> str:
    return shortened(" ".join(text.split()), _TEXT_LENGTH)
