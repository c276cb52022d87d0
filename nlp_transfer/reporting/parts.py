"""What the page of a run tells of its rows: long and short ones, domains, rows seen in training, the worst, errors."""

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

_DOMAINS = 12
_HARDEST = 20
_TEXT = 300  # characters
_SCATTERED = 1000  # points of a scatter
_NUMBERED = re.compile(rf"({'|'.join(SPLIT_NAMES)})-\d+")  # see `Examples.ids`
_ENOUGH = 10  # rows left, of which a score is said


def numbers(evidence: Evidence) -> Section:
    """Return predicted against true numbers and the errors; for regression alone."""
    if evidence.task.problem != "regression":
        return Section("", [])
    present = evidence.examples.weights > 0
    true = evidence.examples.targets[present].astype(np.float64)
    said = evidence.model.logits.reshape(-1)[present].astype(np.float64)
    gaps = said - true
    shown_rows = np.unique(np.linspace(0, len(true) - 1, min(len(true), _SCATTERED)).round().astype(np.int64))
    some = f" {len(shown_rows):,} of {len(true):,} rows are shown." if len(shown_rows) < len(true) else ""

    def signed(value: np.floating) -> str:
        return number(float(value), signed=True)

    return Section(
        "Numbers",
        [
            Drawing(
                figures.agreement(true[shown_rows], said[shown_rows], name="agreement"),
                "Each point is a row; on the dashed line prediction and truth are equal. A cloud flatter than the line "
                f"is a model that shies away from extremes.{some}",
            ),
            Drawing(
                figures.histogram(gaps, name="residuals", label="Errors of the predictions", x="predicted − true"),
                f"Errors: mean {signed(gaps.mean())}, standard deviation {number(float(gaps.std()))}; half of them lie "
                f"between {signed(np.quantile(gaps, 0.25))} and {signed(np.quantile(gaps, 0.75))}.",
            ),
        ],
    )


def groups(evidence: Evidence) -> Section:
    """Return how the model and its best floor fare on short and long texts, and on each domain."""
    examples = evidence.examples
    lengths = measures.length_groups(examples.characters)
    blocks = [*_grouped(evidence, lengths, "length", "characters", "by length of the text")]
    if examples.domains is not None:
        blocks += _grouped(evidence, _domains(examples.domains), "domain", "domain", "by domain")
    return Section("Where it is strong and weak", blocks)


def _domains(names: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """Return the rows of the largest domains, and those of all others together."""
    counts = Counter(names)
    largest = sorted(counts, key=lambda name: (-counts[name], name))
    kept = largest if len(largest) <= _DOMAINS else largest[: _DOMAINS - 1]
    every = np.asarray(names, dtype=object)
    found = [(name or "(none)", np.flatnonzero(every == name)) for name in kept]
    rest = np.flatnonzero(~np.isin(every, kept))
    return [*found, (f"{len(largest) - len(kept)} others", rest)] if len(rest) else found


def _grouped(
    evidence: Evidence, chosen: Sequence[tuple[str, np.ndarray]], name: str, head: str, by: str
) -> Iterator[Block]:
    weights = evidence.examples.weights
    chosen = [(group, members) for group, members in chosen if weights[members].sum() > 0]
    if len(chosen) < 2:
        return
    metric = measures.GROUP_METRIC[evidence.task.problem]
    found = measures.grouped_scores(
        evidence.compared,
        evidence.examples.targets,
        weights,
        chosen,
        metric=metric,
        resamples=evidence.resamples,
        confidence=evidence.report.confidence,
        seed=evidence.seed,
    )
    who = [title_of(each.name) for each in evidence.compared]
    scores = [
        (each, np.array([[g.scores[place].value, g.scores[place].low, g.scores[place].high] for g in found]))
        for place, each in enumerate(who)
    ]
    yield Drawing(
        figures.group_scores([group.name for group in found], scores, name=name, score=metric),
        f"{metric} {by}, with intervals. Where the intervals of two groups overlap widely, the difference between them "
        "may be chance.",
    )
    table = [[group.name, f"{group.rows:,}", *map(format_interval, group.scores)] for group in found]
    yield Table([head, "rows", *who], table, folded=f"{metric} {by}, in numbers")


def unseen(evidence: Evidence) -> Section:
    """Return the score on rows that the training split does not hold."""
    if evidence.train is None:
        return Section("", [])
    report, examples = evidence.report, evidence.examples
    left = rows.unseen(evidence.train, examples)
    title = "Without rows that it learned from"
    near = (
        "near repeats were not looked for, for there is too much text"
        if left.near is None
        else f"{_so_many(left.near, 'is', 'are')} nearly the same as one (four fifths of the character 4-grams)"
    )
    exact = _so_many(left.exact, "has", "have")
    said = f"Of {len(examples):,} measured rows {exact} a text of the training rows; {near}."
    if len(left.rows) == len(examples):
        return Section(title, [Prose(f"{said} So nothing flatters the figures in this way.")])
    fewest = len(left.rows) < _ENOUGH or not examples.weights[left.rows].sum() > 0
    if fewest:
        return Section(title, [Prose(f"{said} The {len(left.rows):,} others are too few for a score.")])
    metric = report.metric
    (others,) = measures.grouped_scores(
        evidence.compared,
        examples.targets,
        examples.weights,
        [("without repeats", left.rows)],
        metric=metric,
        resamples=evidence.resamples,
        confidence=report.confidence,
        seed=evidence.seed,
    )
    known = {row.name: row.intervals[metric] for row in report.rows}
    table = [
        ["all rows", f"{len(examples):,}", *(format_interval(known[each.name]) for each in evidence.compared)],
        [others.name, f"{others.rows:,}", *map(format_interval, others.scores)],
    ]
    head = ["", "rows", *(f"{title_of(each.name)}, {metric}" for each in evidence.compared)]
    return Section(title, [Prose(said), Table(head, table)])


def _so_many(count: int, one: str, several: str) -> str:
    return f"{count or 'none'} {one}" if count < 2 else f"{count:,} {several}"


def hardest(evidence: Evidence) -> Section:
    """Return the rows on which it was the most surely wrong."""
    task, examples = evidence.task, evidence.examples
    found = rows.worst(task, evidence.model.logits, examples.targets, examples.weights, most=_HARDEST)
    title = "The hardest rows"
    if not found:
        return Section(title, [Prose(f"None of the {len(examples):,} rows was answered wrongly.")])
    sure = {"regression": "error", "multi_label": "probability"}.get(task.problem, "probability")
    texts = ["text"] if examples.pairs is None else ["first text", "second text"]
    head = ["row", *texts, "true", "given", *(["most wrong label"] if task.problem == "multi_label" else []), sure]
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
        for each in found
    ]
    caption = {
        "regression": "The largest errors first.",
        "multi_label": "The label whose decision is the most surely wrong, and its probability.",
    }.get(task.problem, "Wrong answers, the surest first, with the probability of what was given.")
    caption += " A wrong label in the data is as likely a reason as a wrong model: read them."
    if any(_NUMBERED.fullmatch(examples.ids[each.row]) for each in found):
        caption += (
            " A row that has no id of its own is called by the split it was read from, some of which may have been set "
            "aside to measure, and by its number there, which counts no header."
        )
    long = range(1, 1 + len(texts))
    return Section(title, [Table(head, table, words=len(head) - 1, caption=caption, long_words=tuple(long))])


def _cut(text: str) -> str:
    return shortened(" ".join(text.split()), _TEXT)
