"""The page of a comparison: the verdict, learning curves, what each costs, where transfer helps and where it hurts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.evaluation.formatting import format_interval, format_p, number, title_of
from nlp_transfer.reporting import figures
from nlp_transfer.reporting.document import (
    Beside,
    Block,
    Bullets,
    Cell,
    Document,
    Drawing,
    Facts,
    Prose,
    Section,
    Table,
)

if TYPE_CHECKING:
    from nlp_transfer.comparing.outcome import GridCell, Outcome

_OPEN = 20  # rows of a table that are shown without asking
_FOOT = (
    "Intervals are over other test rows of the kind (bootstrap, in pairs for differences) and seeds (Student's t), "
    "each by itself: they are not corrected for there being many.",
    "Verdicts and bold follow the p of the difference, which belongs to that interval, corrected by Holm: verdicts for "
    "all numbers of labels, pairs for all pairs. A label, a domain or a length is bold where its interval and "
    "McNemar's test agree.",
    "McNemar's test, exact, is over rows on which one is right in more seeds than the other, corrected by Holm; "
    "it is about these trainings, not about other seeds, and about rows, not about the metric.",
)


def document_of(outcome: Outcome) -> Document:
    """Return the page."""
    lead: list[Block] = [
        Prose(outcome.verdict[0], strong=True),
        Bullets(outcome.verdict[1:]),
        Facts(
            [
                ("data", outcome.data),
                ("measured on", f"{outcome.rows:,} test rows, {outcome.metric}"),
                ("seeds", ", ".join(map(str, outcome.seeds))),
                ("the winner's run", f"nlp-transfer adapt {outcome.recipe}"),
            ]
        ),
    ]
    sections = [_curves(outcome), _costs(outcome), _duels(outcome), _slices(outcome), _left_out(outcome)]
    return Document(outcome.folder.name, lead, sections, _FOOT)


def _curves(outcome: Outcome) -> Section:
    """Return what everybody has with how many labels."""
    labels = dict.fromkeys((cell.labels, cell.said) for cell in outcome.cells)
    names = list(dict.fromkeys(cell.name for cell in outcome.cells))
    rows: list[list[str | Cell]] = []
    for name in names:
        cells = [outcome.cell(name, each) for each, _ in labels]
        rows.append([title_of(name), *(_cell(outcome, cell) for cell in cells)])
    head = ["", *(said.removeprefix("with ") for _, said in labels)]
    table = Table(
        head,
        rows,
        caption="Mean over the seeds. Bold, with the most labels: better than every other, and not by chance.",
    )
    blocks: list[Block] = [table]
    if len(labels) > 1:
        lines = [_line(outcome, name) for name in names if name != "majority"]
        seen = f"{outcome.metric} by training rows; bands are {100 * outcome.confidence:g} % intervals."
        drawing = Drawing(figures.learning_curves(lines, name="curves", score=outcome.metric), seen)
        blocks = [Beside(drawing, table)]
    return Section("How many labels", blocks)


def _line(outcome: Outcome, name: str) -> figures.Line:
    of = [cell for cell in outcome.cells if cell.name == name]
    return figures.Line(
        title_of(name),
        np.array([cell.rows for cell in of], dtype=np.float64),
        np.array([cell.figure.value for cell in of]),
        np.array([cell.figure.low for cell in of]),
        np.array([cell.figure.high for cell in of]),
        grey=name in outcome.floors,
    )


def _cell(outcome: Outcome, cell: GridCell | None) -> str | Cell:
    if cell is None:
        return ""
    return Cell(
        format_interval(cell.figure), strong=cell.labels == outcome.most.labels and _is_alone(outcome, cell.name)
    )


def _is_alone(outcome: Outcome, name: str) -> bool:
    """Return whether a candidate is better than everybody else with the most labels."""
    of = [duel for duel in outcome.duels if name in (duel.one, duel.other)]
    wanted = {True: "better", False: "worse"}
    sure = all(duel.outcome == wanted[duel.one == name] for duel in of)
    return name not in outcome.floors and bool(of) and sure


def _costs(outcome: Outcome) -> Section:
    """Return what everybody costs beside what that is worth."""
    cells = [cell for cell in outcome.cells if cell.labels == outcome.most.labels]
    trained = [cell for cell in cells if cell.seconds > 0]
    points = [
        figures.Point(
            title_of(cell.name),
            cell.seconds,
            cell.figure.value,
            cell.figure.low,
            cell.figure.high,
            grey=cell.name in outcome.floors,
        )
        for cell in trained
    ]
    rows = [
        [
            title_of(cell.name),
            number(cell.figure.value),
            f"{cell.seconds:,.1f}",
            f"{cell.learning:,}" if cell.learning else "–",
            f"{cell.parameters:,}" if cell.parameters else "–",
            f"{cell.megabytes:,.0f}" if cell.megabytes else "–",
        ]
        for cell in cells
    ]
    head = ["", outcome.metric, "seconds", "learning", "parameters", "MB"]
    seen = (
        "Seconds of loading, training and answering, median over the seeds; features that an earlier trial or run has "
        "kept are not computed again, nor counted. MB: the most memory the process took."
    )
    drawing = Drawing(
        figures.cost_against_score(points, name="costs", score=outcome.metric), "Up is better, left is cheaper."
    )
    return Section(f"What it costs, {outcome.most.said}", [Beside(drawing, Table(head, rows, caption=seen))])


def _duels(outcome: Outcome) -> Section:
    rows: list[list[str | Cell]] = [
        [
            title_of(duel.one),
            title_of(duel.other),
            Cell(format_interval(duel.difference), strong=duel.outcome != "no evidence"),
            format_p(duel.adjusted),
            f"{duel.wins:,} : {duel.losses:,}",
            format_p(duel.rows_adjusted),
        ]
        for duel in outcome.duels
    ]
    caption = "Bold: not by chance, by the p of the difference, corrected for all of these pairs."
    head = [
        "one",
        "other",
        f"difference of {outcome.metric}",
        "p, corrected",
        "rows won : lost",
        "McNemar p, corrected",
    ]
    blocks: list[Block] = [Table(head, rows, words=2, caption=caption), *map(Prose, outcome.at_odds)]
    return Section(f"Candidates against everybody, {outcome.most.said}", blocks)


def _slices(outcome: Outcome) -> Section:
    """Return where the winner is better than the best floor and where it is worse, the worst first."""
    duel, blocks = outcome.most.duel, list[Block]()
    for kind in dict.fromkeys(each.kind for each in outcome.slices):
        of = [each for each in outcome.slices if each.kind == kind]
        if kind != "length":
            of.sort(key=lambda each: each.gain.value)
        rows: list[list[str | Cell]] = [
            [
                each.name,
                f"{each.rows:,}",
                Cell(format_interval(each.gain), strong=each.outcome != "no evidence"),
                format_p(each.adjusted),
            ]
            for each in of
        ]
        caption = f"By {kind}: errors a row that {duel.one} makes less than {title_of(duel.other)}; below zero: more."
        folded = f"all {len(rows):,} {kind}s" if len(rows) > _OPEN else None
        blocks.append(Table([kind, "rows", "gain", "McNemar p, corrected"], rows, caption=caption, folded=folded))
    return Section(f"Where {duel.one} is better than {title_of(duel.other)}, and where worse", blocks)


def _left_out(outcome: Outcome) -> Section:
    return Section("Not tried", [Bullets(outcome.left_out)] if outcome.left_out else [])
