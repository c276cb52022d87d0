"""A page as plain values: sections of sentences, tables and drawings, which HTML and Markdown are made of alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """What stands in a table where plain words do not suffice.

    Attributes:
        text: the words.
        strong: whether it is told apart from what stands beside it.
        share: 0 to 1, drawn as a bar behind the words; None: no bar.
    """

    text: str
    strong: bool = False
    share: float | None = None


@dataclass(frozen=True)
class Prose:
    """A sentence or several; `strong`: what a reader must not miss."""

    text: str
    strong: bool = False


@dataclass(frozen=True)
class Bullets:
    """Sentences in a list."""

    items: Sequence[str]


@dataclass(frozen=True)
class Facts:
    """Names, and what there is to say of each."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """Rows of cells.

    Attributes:
        head: of the columns.
        rows: as many cells each.
        words: how many columns from the left hold words; the others hold numbers.
        caption: in plain words what to see.
        folded: of a long table, what is to be opened to see it; None: it is open.
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
        svg: that `drawing.svg_of` or `matrix.confusions` made: markup, not words.
        caption: in plain words what to see.
        wide: whether it is shown at its natural size, in a box that scrolls.
    """

    svg: str
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Beside:
    """A drawing, and a table that stands beside it where there is room."""

    drawing: Drawing
    table: Table


Block = Prose | Bullets | Facts | Table | Drawing | Beside


@dataclass(frozen=True)
class Section:
    """A part of the page under a title of its own."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A whole page.

    Attributes:
        title: of the page.
        lead: what stands before the first section.
        sections: the others; those without a block are left out.
        foot: sentences at its end.
    """

    title: str
    lead: Sequence[Block]
    sections: Sequence[Section]
    foot: Sequence[str] = ()
