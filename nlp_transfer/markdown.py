"""Escape text for Markdown, and format lists, tables and code blocks."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Container, Sequence

from nlp_transfer.wording import shortened

WIDTH = 60  # characters of a cell
# Markup of Markdown within a line, and at the start of a line.
_MARKS = re.compile(r"([\\`*|~$]|(?<!\w)_|_(?!\w)|\](?=[(\[:]))")
_STARTS = re.compile(r"^([#+-](?=[\s#+-]|$)|\d+(?=[.)](?:\s|$)))")


def escaped(text: str, width: int | None = None) -> str:
    """Escape a text so that Markdown shows it literally, on one line."""
    line = " ".join("".join(mark if mark.isprintable() else " " for mark in text).split())
    if width:
        line = shortened(line, width)
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = _MARKS.sub(r"\\\1", line)
    return _STARTS.sub(lambda match: f"&#{ord(match[1][0])};{match[1][1:]}", line)


def bullets(lines: Sequence[str]) -> str:
    """Return a bulleted list of lines, which are Markdown already."""
    return "\n".join(f"- {line}" for line in lines)


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, strong: Container[tuple[int, int]] = frozenset()
) -> str:
    """Return a table; cells are escaped, and long ones shortened.

    Args:
        head: the column names.
        rows: with one cell per column.
        strong: row and column of each cell that is bold, from 0.
    """
    cells = [[escaped(cell, WIDTH) for cell in row] for row in rows]
    for at, row in enumerate(cells):
        row[:] = [f"**{cell}**" if cell and (at, column) in strong else cell for column, cell in enumerate(row)]
    lines = ["| " + " | ".join(line) + " |" for line in ([escaped(name, WIDTH) for name in head], *cells)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def block(language: str, code: str) -> str:
    """Return a fenced block whose fence is longer than any in the code."""
    longest = max((len(ticks) for ticks in re.findall(r"`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{textwrap.dedent(code).strip()}\n{fence}"
