"""Scores of validation rows, kept so that a limit with a promise for new rows can be read off them at any level."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlp_transfer.data.labels import number_of

_MOST = 1001  # kept; of more rows those that lie evenly between the least and the greatest


@dataclass(frozen=True)
class KeptScores:
    """Scores of rows that are exchangeable with new ones.

    Attributes:
        rows: how many had a score.
        values: their scores, rising; of more than 1,001 rows as many of them, evenly spread by rank.
    """

    rows: int
    values: tuple[float, ...]

    @classmethod
    def of(cls, scores: np.ndarray) -> KeptScores:
        """Keep scores, (rows,), to seven digits, rounded up: or a score, and many like it, would lie beyond itself."""
        ordered = np.sort(np.asarray(scores, dtype=np.float64))
        return cls(len(ordered), tuple(map(_above, ordered[_ranks(len(ordered))].tolist())))

    def limit(self, level: float) -> float:
        r"""Return what a new row's score is at most, with a probability of `level` or more.

        That is the :math:`\lceil (n + 1) \cdot level \rceil`-th of the n scores in rising order, or the next one that
        was kept: a new row is as likely to take any of the n + 1 places among them (Vovk et al. 2005; Lei et al. 2018,
        "Distribution-Free Predictive Inference for Regression", JASA). Infinite where there are fewer rows than
        `fewest(level)`.
        """
        rank = math.ceil((self.rows + 1) * level - 1e-9)  # 10 rows at 0.9 are to give 10, not 9.9 and a bit
        place = int(np.searchsorted(_ranks(self.rows), max(rank, 1) - 1))
        return self.values[place] if place < len(self.values) else math.inf

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"rows": self.rows, "values": list(self.values)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> KeptScores:
        """Return what `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: for anything that it does not write.
        """
        rows, values = plain["rows"], plain["values"]
        numbers = all(isinstance(each, float | int) and number_of(each) is not None for each in values)
        if type(rows) is not int or rows < 0 or len(values) != len(_ranks(rows)) or not numbers:
            raise ValueError("no kept scores")
        if any(low > high for low, high in itertools.pairwise(values)):
            raise ValueError("kept scores do not rise")
        return cls(rows, tuple(map(float, values)))


def _above(value: float) -> float:
    """Return the least number of seven digits that is no less than a value."""
    rounded = float(f"{value:.7g}")
    if not rounded < value:
        return rounded
    return float(f"{rounded + 10.0 ** (math.floor(math.log10(abs(value))) - 6):.7g}")


def fewest(level: float) -> int:
    """Return the rows that a limit of a level needs: of fewer, any new score may be the greatest too often."""
    return math.ceil(level / (1 - level) - 1e-9)


def _ranks(rows: int) -> np.ndarray:
    """Return which of so many rows in rising order are kept, from 0 on."""
    if rows <= _MOST:
        return np.arange(rows)
    return np.ceil(np.arange(_MOST) * (rows - 1) / (_MOST - 1) - 1e-9).astype(np.int64)
