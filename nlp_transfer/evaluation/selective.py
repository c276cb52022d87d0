r"""Selective classification: abstaining so that, with 95 % confidence, the error rate of given labels is bounded.

Selective classification with guaranteed risk (Geifman and El-Yaniv 2017, "Selective Classification for Deep Neural
Networks", NeurIPS), its threshold chosen among a few fixed in advance (Angelopoulos et al. 2021, "Learn then Test:
Calibrating Predictive Algorithms to Achieve Risk Control", arXiv 2110.01052). If n validation rows reach a threshold
and k of them are labelled wrong, the risk above it is at most the upper bound of Clopper and Pearson (1934, "The Use of
Confidence or Fiducial Limits Illustrated in the Case of the Binomial", Biometrika),

.. math:: \sup\{r : P(\mathrm{Bin}(n, r) \le k) > \delta / 20\} = \mathrm{Beta}^{-1}(1 - \delta / 20;\ k + 1,\ n - k),

with a confidence of :math:`1 - \delta / 20`. With :math:`1 - \delta` the bounds hold for all 20 thresholds at once
(Bonferroni), and so for whichever is chosen.

Why this is valid: thresholds depend on the probabilities only, those that the most confident 1/20, 2/20, … of the rows
reach, and not on which labels are right. Given the first row below a threshold, the rows above it are a sample of all
more confident rows, each wrong with a probability of its own. The number of errors, a sum of unequal Bernoulli
variables, has no heavier lower tail than the binomial of their mean (Hoeffding 1956, "On the Distribution of the Number
of Successes in Independent Trials", Annals of Mathematical Statistics). Placing the threshold halfway to the next row
only makes the answered rows more confident. The guarantee is for rows of the same distribution; it ignores that
temperature and shifts were fitted on the same validation rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlp_transfer.data.task import NEVER

CONFIDENCE = 0.95
_THRESHOLDS = 20
_DELTA = (1 - CONFIDENCE) / _THRESHOLDS  # error probability of one threshold's bound
_PRECISION = 1e6  # `predict` writes six digits of a probability


@dataclass(frozen=True)
class RiskCurve:
    """How many rows reach each of at most 20 probability thresholds, and how many of these are labelled wrong.

    Attributes:
        least: the thresholds, in descending order; the last is 0.
        answered: the number of rows whose highest probability is at or above each threshold.
        wrong: how many of those are labelled wrong.
    """

    least: tuple[float, ...]
    answered: tuple[int, ...]
    wrong: tuple[int, ...]

    @classmethod
    def of(cls, confidences: np.ndarray, wrong: np.ndarray) -> RiskCurve:
        """Compute the curve of at least one row.

        Args:
            confidences: float64 (rows,), the highest probability of each row.
            wrong: bool (rows,), whether the label of the highest probability is wrong.
        """
        descending, rows = np.sort(confidences)[::-1], len(confidences)
        least = {0.0}
        for part in range(1, _THRESHOLDS):
            count = int(np.count_nonzero(descending >= descending[-(-rows * part // _THRESHOLDS) - 1]))
            if count < rows:
                midpoint = (float(descending[count - 1]) + float(descending[count])) / 2
                least.add(math.floor(midpoint * _PRECISION) / _PRECISION)
        thresholds = tuple(sorted(least, reverse=True))
        answered = [confidences >= threshold for threshold in thresholds]
        return cls(
            thresholds,
            tuple(int(each.sum()) for each in answered),
            tuple(int((each & wrong).sum()) for each in answered),
        )

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.answered[-1]

    def threshold(self, risk: float) -> float:
        """Return the lowest threshold whose risk bound is at most `risk`; NEVER if there is none."""
        valid = [least for least, bound in zip(self.least, self._bounds(), strict=True) if bound <= risk]
        return min(valid, default=NEVER)

    def min_risk(self) -> float:
        """Return the lowest risk that any threshold guarantees."""
        return min(self._bounds())

    def _bounds(self) -> list[float]:
        from scipy.stats import beta

        return [
            1.0 if wrong == answered else float(beta.ppf(1 - _DELTA, wrong + 1, answered - wrong))
            for answered, wrong in zip(self.answered, self.wrong, strict=True)
        ]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"least": list(self.least), "answered": list(self.answered), "wrong": list(self.wrong)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> RiskCurve:
        """Read what `to_json` returned.

        Raises:
            KeyError, TypeError, ValueError: for anything else.
        """
        least, answered, wrong = plain["least"], plain["answered"], plain["wrong"]
        if not 1 <= len(least) == len(answered) == len(wrong) <= _THRESHOLDS:
            raise ValueError("no risk curve")
        if any(type(each) is not float or not 0 <= each <= 1 for each in least) or least[-1] != 0:
            raise ValueError("no probabilities of a risk curve")
        if any(type(each) is not int or each < 0 for each in (*answered, *wrong)) or not answered[0]:
            raise ValueError("no counts of a risk curve")
        steps = itertools.pairwise(zip(least, answered, wrong, strict=True))
        for (upper, fewer, fewer_wrong), (lower, more, more_wrong) in steps:
            if not (upper > lower and 0 <= more_wrong - fewer_wrong <= more - fewer):
                raise ValueError("a risk curve whose counts are not monotonic")
        if wrong[0] > answered[0]:
            raise ValueError("more wrong labels than labels")
        return cls(tuple(least), tuple(answered), tuple(wrong))


def min_risk(rows: int) -> float:
    """Return the lowest risk that so many rows can guarantee, if none of them is labelled wrong."""
    return float(1 - _DELTA ** (1 / rows)) if rows else 1.0


def min_rows(risk: float) -> int:
    """Return the number of rows that a guarantee of the risk needs, if none of them is labelled wrong."""
    return math.ceil(math.log(_DELTA) / math.log1p(-risk) - 1e-9)
