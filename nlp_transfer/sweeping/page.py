"""The report page of a sweep: the chosen run, a table of all runs, and charts of the figure by each key."""

from __future__ import annotations

import math

from nlp_transfer.evaluation.formatting import number
from nlp_transfer.evaluation.names import HIGHER_IS_BETTER
from nlp_transfer.reporting.document import Block, Bullets, Cell, Document, Drawing, Facts, Prose, Section, Table
from nlp_transfer.sweeping import pictures
from nlp_transfer.sweeping.job import FAILED, FINISHED, PRUNED
from nlp_transfer.sweeping.results import Results, brief

_MAX_UNFOLDED = 20  # rows of a table that is not folded
_MAX_KEYS = 12  # keys in the charts


def document_of(results: Results) -> Document:
    """Return the report page."""
    first, *others = results.sentences
    states = [job.state for job in results.jobs]
    counts = ", ".join(f"{states.count(state):,} {state}" for state in dict.fromkeys(states))
    facts = [("runs", counts)]
    if results.chosen is not None:
        facts.append(("chosen", results.chosen.folder or ""))
    lead: list[Block] = [Prose(first, strong=True), Bullets(others), Facts(facts)]
    return Document(results.name, lead, [_pictures(results), _runs(results), _failures(results)])


def _pictures(results: Results) -> Section:
    """Return a parallel-coordinates chart of all keys, and a chart of the figure against each of them."""
    if results.metric is None or not results.keys or len(results.finished) < 2:
        return Section("", [])
    keys = results.keys[:_MAX_KEYS]
    measured = [job for job in results.ranked if job.state == PRUNED or not math.isnan(job.value)]
    jobs = [job for job in measured if set(results.values(job).values()) != {""}]
    figures = [job.value for job in jobs]
    up = HIGHER_IS_BETTER[results.metric]
    axes = [pictures.Axis.of(key, [results.values(job)[key] for job in jobs]) for key in keys]
    score = f"validation {results.metric}"
    direction = "up" if up else "down"
    overview = Drawing(
        pictures.parallel(axes, figures, name="parallel", score=score, higher=up),
        f"Each line is a run through its values to its {score}; the chosen one is orange, the better ones are darker"
        "; a dashed line ends where its run was ended early.",
        wide=len(axes) > 2,
    )
    by_key = [
        Drawing(
            pictures.against(axis, figures, name=f"key{index}", score=score, higher=up),
            f"{axis.key}: every point is a run, {direction} is better, the orange one is chosen.",
        )
        for index, axis in enumerate(axes)
    ]
    return Section("The figure by key", [overview, *by_key])


def _runs(results: Results) -> Section:
    head = [*results.keys, "", f"validation {results.metric or ''}".strip(), "seconds"]
    rows: list[list[str | Cell]] = [
        [
            *(brief(value) for value in results.values(job).values()),
            "" if job.state == FINISHED else job.state,
            Cell("–" if job.figure is None else number(job.figure), strong=job is results.chosen),
            "–" if job.seconds is None else f"{job.seconds:,.1f}",
        ]
        for job in results.ranked
    ]
    folded = f"all {len(rows):,} runs" if len(rows) > _MAX_UNFOLDED else None
    caption = "The best first. For runs that were ended early the figure is that of their last evaluation."
    return Section("Every run", [Table(head, rows, words=len(results.keys) + 1, caption=caption, folded=folded)])


def _failures(results: Results) -> Section:
    failures = [f"{job.name}: {job.said or f'status {job.status}'}" for job in results.jobs if job.state == FAILED]
    return Section("Failed runs", [Bullets(failures)] if failures else [])
