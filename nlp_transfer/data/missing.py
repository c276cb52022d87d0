"""The cell that is not there."""

from __future__ import annotations

from typing import Final


class _Missing:
    """The type of MISSING."""

    def __repr__(self) -> str:
        return "MISSING"

    def __reduce__(self) -> str:
        return "MISSING"  # a copy is the same one


MISSING: Final = _Missing()
"""The cell of a JSON object that has no such key; None is a null that was written."""
