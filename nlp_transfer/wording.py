"""How counts, lists and long words are written in what people read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Value = TypeVar("Value")


def counted(count: int, noun: str) -> str:
    """Write how many of something there are: 1 row, 2,000 rows."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(values: Sequence[Value], say: Callable[[Value], str] = str, *, most: int = 5, between: str = ", ") -> str:
    """Write the first few of several values, and how many more there are."""
    more = f" and {len(values) - most:,} more" if len(values) > most else ""
    return between.join(map(say, values[:most])) + more


def shortened(words: str, most: int) -> str:
    """Return words that have at most so many characters, the last one a mark where some are left out."""
    return words if len(words) <= most else f"{words[: most - 1]}…"
