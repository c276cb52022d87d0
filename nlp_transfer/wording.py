"""Formatting of counts, lists and long strings in messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Value = TypeVar("Value")


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: 1 row, 2,000 rows."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(values: Sequence[Value], say: Callable[[Value], str] = str, *, most: int = 5, between: str = ", ") -> str:
    """Return the first few values, and how many more there are."""
    more = f" and {len(values) - most:,} more" if len(values) > most else ""
    return between.join(map(say, values[:most])) + more


def shortened(words: str, most: int) -> str:
    """Return at most `most` characters of a string, ending in … if it was cut."""
    return words if len(words) <= most else f"{words[: most - 1]}…"
