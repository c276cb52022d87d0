"""Sequences that compare as lists do, however they hold their values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Value = TypeVar("Value")


class AsList(Sequence[Value]):
    """A sequence that is equal to a list, and to another such sequence, of equal values."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, list | AsList):
            return NotImplemented
        return len(self) == len(other) and all(
            one is another or one == another for one, another in zip(self, other, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]  # as a list
