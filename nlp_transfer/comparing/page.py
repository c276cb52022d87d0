"""The report of a comparison: verdict, learning curves, costs, paired tests, and where transfer helps or hurts."""

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
    from nlp_transfer.comparing.outcome import ComparisonOutcome, GridCell

_MOST_UNFOLDED = 20  # rows of a table
_FOOT = (
    "Intervals cover the variation over test rows (bootstrap, paired for differences) and over seeds (Student's t). "
    "They are not corrected for multiple comparisons.",
    "Verdicts and bold figures use the p value of the difference with Holm's correction: verdicts over all numbers of "
    "labels, pairs over all pairs. A label, a domain or a length is bold where its interval and McNemar's test agree.",
    "McNemar's exact test, with Holm's correction, counts the rows on which one is right in more seeds than the other; "
    "it is about these trainings, not about other seeds, and about rows, not about the metric.",
)


def document_of(outcome: ComparisonOutcome) -> Document:
    """Return the report as a document."""
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
    sections = [_curves(outcome), _costs(outcome), _paired_tests(outcome), _slices(outcome), _left_out(outcome)]
    return Document(outcome.folder.name, lead, sections, _FOOT)


def _curves(outcome: ComparisonOutcome) -> Section:
    """Return the learning curves: scores by number of labels."""
    labels = dict.fromkeys((cell.labels, cell.said) for cell in outcome.cells)
    names = list(dict.fromkeys(cell.name for cell in outcome.cells))
    rows: list[list[str | Cell]] = []
    for name in names:
        cells = [outcome.cell(name, each) for each, _ in labels]
        rows.append([title_of(name), *(_cell(outcome, cell) for cell in cells)])
    head = ["", *(description.removeprefix("with ") for _, description in labels)]
    table = Table(
        head,
        rows,
        caption="Mean over the seeds. Bold, with the most labels: significantly better than every other.",
    )
    blocks: list[Block] = [table]
    if len(labels) > 1:
        lines = [_line(outcome, name) for name in names if name != "majority"]
        caption = f"{outcome.metric} by training rows; bands are {100 * outcome.confidence:g}% intervals."
        drawing = Drawing(figures.learning_curves(lines, name="curves", score=outcome.metric), caption)
        blocks = [Beside(drawing, table)]
    return Section("Score by number of labels", blocks)


def _line(outcome: ComparisonOutcome, name: str) -> figures.Line:
    cells = [cell for cell in outcome.cells if cell.name == name]
    return figures.Line(
        title_of(name),
        np.array([cell.rows for cell in cells], dtype=np.float64),
        np.array([cell.figure.value for cell in cells]),
        np.array([cell.figure.low for cell in cells]),
        np.array([cell.figure.high for cell in cells]),
        grey=name in outcome.floors,
    )


def _cell(outcome: ComparisonOutcome, cell: GridCell | None) -> str | Cell:
    if cell is None:
        return ""
    is_best = cell.labels == outcome.most.labels and _is_clear_winner(outcome, cell.name)
    return Cell(format_interval(cell.figure), strong=is_best)


def _is_clear_winner(outcome: ComparisonOutcome, name: str) -> bool:
    """Return whether a candidate is better than all others with the most labels, not by chance."""
    tests = [test for test in outcome.duels if name in (test.one, test.other)]
    wins = all(test.outcome == ("better" if test.one == name else "worse") for test in tests)
    return name not in outcome.floors and bool(tests) and wins


def _costs(outcome: ComparisonOutcome) -> Section:
    """Return the costs beside the scores."""
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
    caption = (
        "Seconds of loading, training and predicting, median over the seeds; cached features of earlier trials or runs "
        "are neither computed again nor counted. MB: peak memory of the process."
    )
    drawing = Drawing(
        figures.cost_against_score(points, name="costs", score=outcome.metric),
        "Higher is better, further left is cheaper.",
    )
    return Section(f"Cost, {outcome.most.said}", [Beside(drawing, Table(head, rows, caption=caption))])


def _paired_tests(outcome: ComparisonOutcome) -> Section:
    rows: list[list[str | Cell]] = [
        [
            title_of(test.one),
            title_of(test.other),
            Cell(format_interval(test.difference), strong=test.outcome != "no evidence"),
            format_p(test.adjusted),
            f"{test.wins:,} : {test.losses:,}",
            format_p(test.rows_adjusted),
        ]
        for test in outcome.duels
    ]
    caption = "Bold: significant by the p value of the difference, corrected for all of these pairs."
    head = [
        "one",
        "other",
        f"difference of {outcome.metric}",
        "p, corrected",
        "rows won : lost",
        "McNemar p, corrected",
    ]
    blocks: list[Block] = [Table(head, rows, words=2, caption=caption), *map(Prose, outcome.at_odds)]
    return Section(f"Candidates against all others, {outcome.most.said}", blocks)


def _slices(outcome: ComparisonOutcome) -> Section:
    """Return where the winner is better or worse than the best baseline, worst first."""
    test, blocks = outcome.most.duel, list[Block]()
    for kind in dict.fromkeys(each.kind for each in outcome.slices):
        slices = [each for each in outcome.slices if each.kind == kind]
        if kind != "length":
            slices.sort(key=lambda each: each.gain.value)
        rows: list[list[str | Cell]] = [
            [
                each.name,
                f"{each.rows:,}",
                Cell(format_interval(each.gain), strong=each.outcome != "no evidence"),
                format_p(each.adjusted),
            ]
            for each in slices
        ]
        caption = f"By {kind}: how many fewer errors per row {test.one} makes than {title_of(test.other)}."
        folded = f"all {len(rows):,} {kind}s" if len(rows) > _MOST_UNFOLDED else None
        blocks.append(Table([kind, "rows", "gain", "McNemar p, corrected"], rows, caption=caption, folded=folded))
    return Section(f"Where {test.one} is better than {title_of(test.other)}, and where worse", blocks)


def _left_out(outcome: ComparisonOutcome) -> Section:
    return Section("Not tried", [Bullets(outcome.left_out)] if outcome.left_out else [])
