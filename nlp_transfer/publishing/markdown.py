"""Text as Markdown that shows it literally, whatever it holds; and the few forms that a card is made of."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from nlp_transfer.wording import shortened

WIDTH = 60  # characters of a cell
# What Markdown reads as its own: within a line, and where one starts.
_MARKS = re.compile(r"([\\`*|~$]|(?<!\w)_|_(?!\w)|\](?=[(\[:]))")
_STARTS = re.compile(r"^([#+-](?=[\s#+-]|$)|\d+(?=[.)](?:\s|$)))")


def escaped(text: str, width: int | None = None) -> str:
    """Return a text as Markdown shows it literally, on one line: no table, heading, list or HTML is made of it."""
    line = " ".join("".join(mark if mark.isprintable() else " " for mark in text).split())
    if width:
        line = shortened(line, width)
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = _MARKS.sub(r"\\\1", line)
    return _STARTS.sub(lambda found: f"&#{ord(found[1][0])};{found[1][1:]}", line)


def bullets(lines: Sequence[str]) -> str:
    """Return a list; the lines are Markdown already."""
    return "\n".join(f"- {line}" for line in lines)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of cells as they are, shortened where they are long."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(escaped(cell, WIDTH) for cell in cells) + " |"

    return "\n".join([line(head), "|---" * len(head) + "|", *map(line, rows)])


def block(language: str, code: str) -> str:
    """Return a fenced block whose fence is longer than any in the code."""
    longest = max((len(found) for found in re.findall(r"`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{textwrap.dedent(code).strip()}\n{fence}"
