"""The marker for a cell that does not exist."""

from __future__ import annotations

from typing import Final


class _Missing:
    """The type of MISSING."""

    def __repr__(self) -> str:
        return "MISSING"

    def __reduce__(self) -> str:
        return "MISSING"  # copies are the same object


MISSING: Final = _Missing()
"""The cell of a JSON object that lacks the key; None stands for an explicit null."""
