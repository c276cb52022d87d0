"""Base class of sequences that compare like lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Value = TypeVar("Value")


class ListLike(Sequence[Value]):
    """A sequence that equals any list or ListLike of equal values."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, list | ListLike):
            return NotImplemented
        return len(self) == len(other) and all(
            one is another or one == another for one, another in zip(self, other, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]  # unhashable, like a list
