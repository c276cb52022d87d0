"""What is wrong or suspicious in a corpus: a sentence, and the rows that it is about."""

from __future__ import annotations

from dataclasses import dataclass

Place = tuple[str, int]
"""A split and a row of it."""


@dataclass(frozen=True)
class Finding:
    """One kind of defect.

    Attributes:
        kind: of the defect.
        message: a sentence with counts.
        places: the rows that are affected; where two rows belong together, the one that could go.
        beside: for each of them the row that it belongs together with, where there is one.
    """

    kind: str
    message: str
    places: tuple[Place, ...] = ()
    beside: tuple[Place, ...] = ()
