"""An examination on a terminal: the findings, worst first, and the most likely label errors."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import TYPE_CHECKING

from nlp_transfer.data.checks import called
from nlp_transfer.inspection.kinds import KINDS, SEVERITIES
from nlp_transfer.wording import counted

if TYPE_CHECKING:
    from rich.console import Console

    from nlp_transfer.data.finding import Place
    from nlp_transfer.inspection.examine import Examination

_MOST_DOUBTS = 10
_TEXT_LENGTH = 100  # characters
_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def render(examination: Examination, console: Console) -> None:
    """Print the findings."""
    from rich.table import Table

    def short(words: str) -> str:
        """Leave out the common folder of all places, which is printed above."""
        return words.replace(f"{examination.corpus.source}/", "")

    given = {split: len(rows) for split, rows in examination.corpus.rows.items()}
    console.print(f"{examination.corpus.source}: {_sizes(given)}", style="bold", soft_wrap=True)
    if examination.encoder_rows.keys() - given.keys():
        console.print(f"for checks with the encoder they were split as in a run: {_sizes(examination.encoder_rows)}")
    if examination.findings:
        table = Table(show_edge=False, pad_edge=False, header_style="bold")
        table.add_column("", no_wrap=True)
        table.add_column("found", overflow="fold", ratio=3)
        table.add_column("advice", overflow="fold", ratio=2)
        for kind, findings in groupby(examination.findings, key=lambda each: KINDS[each.kind]):
            words = "\n".join(short(each.message) for each in findings)
            table.add_row(kind.severity, words, kind.advice, style=_STYLES[kind.severity])
        console.print(table)
    if examination.doubts:
        table = Table(title="Most doubtful labels", title_justify="left", show_edge=False, pad_edge=False)
        for name in ("where", "label", "rather", "text"):
            table.add_column(name, overflow="fold")
        for doubt in examination.doubts[:_MOST_DOUBTS]:
            table.add_row(
                short(examination.where(doubt.place)),
                *map(_quoted, (doubt.given, doubt.suggested)),
                _brief(_text(examination, doubt.place)),
            )
        console.print(table)
    console.print(summary(examination), style="bold")


def summary(examination: Examination) -> str:
    """Return the number of findings by severity, in one line."""
    counts = [(examination.count(severity), severity) for severity in SEVERITIES]
    return ", ".join(counted(count, severity) for count, severity in counts if count) or "nothing was found"


def _sizes(rows: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {called(split)}" for split, count in rows.items()) + " rows"


def _text(examination: Examination, place: Place) -> str:
    split, row = place
    return str(examination.corpus.rows[split].table.columns[examination.corpus.roles["text"]][row])


def _quoted(label: str) -> str:
    """Return a label, in quotes if it has white space around it."""
    return label if label == label.strip() else repr(label)


def _brief(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _TEXT_LENGTH else f"{text[:_TEXT_LENGTH]} …"
