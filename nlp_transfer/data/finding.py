"""A finding: something wrong or suspicious in a corpus, with a message and the affected rows."""

from __future__ import annotations

from dataclasses import dataclass

Place = tuple[str, int]
"""A split and a row number in it."""


@dataclass(frozen=True)
class Finding:
    """One kind of defect and all rows that have it.

    Attributes:
        kind: of the defect.
        message: a sentence with counts.
        places: the affected rows; of a pair of rows, the one that could be removed.
        beside: for each of them the other row of its pair, where the defect is one of pairs.
    """

    kind: str
    message: str
    places: tuple[Place, ...] = ()
    beside: tuple[Place, ...] = ()
