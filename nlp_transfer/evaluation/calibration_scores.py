"""The calibration scores of split conformal prediction, from which a limit for new rows can be read at any level."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlp_transfer.data.labels import number_of

_MOST = 1001  # scores that are saved; of more rows, evenly spaced ranks


@dataclass(frozen=True)
class CalibrationScores:
    """Scores of validation rows, which must be exchangeable with new rows.

    Attributes:
        rows: the number of scored rows.
        values: their scores in ascending order; of more than 1,001 rows, 1,001 scores at evenly spaced ranks.
    """

    rows: int
    values: tuple[float, ...]

    @classmethod
    def of(cls, scores: np.ndarray) -> CalibrationScores:
        """Take scores, (rows,), rounded up to seven digits, so that no score exceeds its own rounded value."""
        ordered = np.sort(np.asarray(scores, dtype=np.float64))
        return cls(len(ordered), tuple(map(_rounded_up, ordered[_ranks(len(ordered))].tolist())))

    def limit(self, level: float) -> float:
        r"""Return the value that a new row's score does not exceed with a probability of at least `level`.

        This is the :math:`\lceil (n + 1) \cdot level \rceil`-th smallest of the n scores, or the next saved one: a new
        row is equally likely to take any of the n + 1 ranks (Vovk et al. 2005; Lei et al. 2018, "Distribution-Free
        Predictive Inference for Regression", JASA). Infinite if there are fewer rows than `min_rows(level)`.
        """
        rank = math.ceil((self.rows + 1) * level - 1e-9)  # 100 * 0.55 is slightly above 55
        place = int(np.searchsorted(_ranks(self.rows), max(rank, 1) - 1))
        return self.values[place] if place < len(self.values) else math.inf

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"rows": self.rows, "values": list(self.values)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> CalibrationScores:
        """Read what `to_json` returned.

        Raises:
            KeyError, TypeError, ValueError: for anything else.
        """
        rows, values = plain["rows"], plain["values"]
        numbers = all(isinstance(each, float | int) and number_of(each) is not None for each in values)
        if type(rows) is not int or rows < 0 or len(values) != len(_ranks(rows)) or not numbers:
            raise ValueError("no kept scores")
        if any(low > high for low, high in itertools.pairwise(values)):
            raise ValueError("kept scores do not rise")
        return cls(rows, tuple(map(float, values)))


def _rounded_up(value: float) -> float:
    """Return the value rounded up to seven significant digits."""
    rounded = float(f"{value:.7g}")
    if not rounded < value:
        return rounded
    return float(f"{rounded + 10.0 ** (math.floor(math.log10(abs(value))) - 6):.7g}")


def min_rows(level: float) -> int:
    """Return the number of rows from which the limit of a level is finite."""
    return math.ceil(level / (1 - level) - 1e-9)


def _ranks(rows: int) -> np.ndarray:
    """Return the 0-based ranks of the scores that are saved."""
    if rows <= _MOST:
        return np.arange(rows)
    return np.ceil(np.arange(_MOST) * (rows - 1) / (_MOST - 1) - 1e-9).astype(np.int64)
