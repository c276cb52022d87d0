"""A page as plain values: sections of sentences, tables and drawings, rendered as HTML or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """A table cell with formatting.

    Attributes:
        text: its words.
        strong: whether it is emphasised.
        share: 0 to 1, drawn as a bar behind the words; None: no bar.
    """

    text: str
    strong: bool = False
    share: float | None = None


@dataclass(frozen=True)
class Prose:
    """One or more sentences; `strong` ones must not be missed."""

    text: str
    strong: bool = False


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: Sequence[str]


@dataclass(frozen=True)
class Facts:
    """A list of names with descriptions."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        head: the column names.
        rows: with one cell per column.
        words: how many columns, from the left, contain words; the others contain numbers.
        caption: what the table shows, in plain words.
        folded: the label to click in order to open a collapsed table; None: it is not collapsed.
        long_words: columns whose words may take several lines.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    words: int = 1
    caption: str = ""
    folded: str | None = None
    long_words: Sequence[int] = ()


@dataclass(frozen=True)
class Drawing:
    """A figure.

    Attributes:
        svg: markup from `drawing.svg_of` or `matrix.confusion_matrix`; it is not escaped.
        caption: what the figure shows, in plain words.
        wide: whether it is shown at its natural size, in a scrolling box.
    """

    svg: str
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Beside:
    """A drawing, with a table next to it if there is room."""

    drawing: Drawing
    table: Table


Block = Prose | Bullets | Facts | Table | Drawing | Beside


@dataclass(frozen=True)
class Section:
    """A titled section."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A whole page.

    Attributes:
        title: of the page.
        lead: blocks before the first section.
        sections: those without a block are left out.
        foot: sentences at the end.
    """

    title: str
    lead: Sequence[Block]
    sections: Sequence[Section]
    foot: Sequence[str] = ()
