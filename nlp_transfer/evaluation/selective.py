r"""Labels are given where the model is sure enough for a promise: at most this share of them is wrong.

Selective classification with guaranteed risk (Geifman and El-Yaniv 2017, "Selective Classification for Deep Neural
Networks", NeurIPS), its threshold chosen among a few fixed in advance (Angelopoulos et al. 2021, "Learn then Test:
Calibrating Predictive Algorithms to Achieve Risk Control", arXiv 2110.01052). Of the rows that reach a threshold let n
be given labels, k of them wrong. The risk beyond it is at most the upper bound of Clopper and Pearson (1934, "The Use
of Confidence or Fiducial Limits Illustrated in the Case of the Binomial", Biometrika),

.. math:: \sup\{r : P(\mathrm{Bin}(n, r) \le k) > \delta / 20\} = \mathrm{Beta}^{-1}(1 - \delta / 20;\ k + 1,\ n - k),

with a confidence of :math:`1 - \delta / 20`; with :math:`1 - \delta` that holds for all 20 at once (Bonferroni), and so
for whichever is chosen.

Why so: thresholds are set by probabilities alone, those that the surest 1/20, 2/20, … of the rows reach, and so do not
hang on which labels are right. Given the next less sure row, those before it are a sample of all that are surer, in
which every label is wrong with a probability of its own. The number of wrong ones, a sum of unequal chances, has no
heavier lower tail than the binomial of their mean (Hoeffding 1956, "On the Distribution of the Number of Successes in
Independent Trials", Annals of Mathematical Statistics). The threshold lies halfway to that next row, so that what is
answered beyond it is, if anything, surer still. What is promised is for rows like these; that they have chosen
temperature and shifts before is not accounted for.
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
_DOUBT = (1 - CONFIDENCE) / _THRESHOLDS  # of one threshold
_DIGITS = 1e6  # as many as `predict` writes of a probability


@dataclass(frozen=True)
class RiskCurve:
    """How many rows reach each of at most 20 probabilities, and how many of these are labelled wrong.

    Attributes:
        least: the probabilities, falling; the last is 0.
        answered: rows whose highest probability is no less.
        wrong: of these.
    """

    least: tuple[float, ...]
    answered: tuple[int, ...]
    wrong: tuple[int, ...]

    @classmethod
    def of(cls, sure: np.ndarray, wrong: np.ndarray) -> RiskCurve:
        """Return the curve of some rows, one at least.

        Args:
            sure: float64 (rows,), the highest probability of each.
            wrong: bool (rows,), whether the label that has it is another than the true one.
        """
        ordered, rows = np.sort(sure)[::-1], len(sure)
        least = {0.0}
        for part in range(1, _THRESHOLDS):
            reached = int(np.count_nonzero(ordered >= ordered[-(-rows * part // _THRESHOLDS) - 1]))
            if reached < rows:
                between = (float(ordered[reached - 1]) + float(ordered[reached])) / 2
                least.add(math.floor(between * _DIGITS) / _DIGITS)
        falling = tuple(sorted(least, reverse=True))
        given = [sure >= each for each in falling]
        return cls(
            falling, tuple(int(each.sum()) for each in given), tuple(int((each & wrong).sum()) for each in given)
        )

    @property
    def rows(self) -> int:
        """How many there were."""
        return self.answered[-1]

    def threshold(self, risk: float) -> float:
        """Return the probability below which to abstain: the least whose bound is at most `risk`, NEVER without one."""
        kept = [least for least, bound in zip(self.least, self._bounds(), strict=True) if bound <= risk]
        return min(kept, default=NEVER)

    def lowest(self) -> float:
        """Return the lowest risk at which anything is answered."""
        return min(self._bounds())

    def _bounds(self) -> list[float]:
        from scipy.stats import beta

        return [
            1.0 if wrong == answered else float(beta.ppf(1 - _DOUBT, wrong + 1, answered - wrong))
            for answered, wrong in zip(self.answered, self.wrong, strict=True)
        ]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"least": list(self.least), "answered": list(self.answered), "wrong": list(self.wrong)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> RiskCurve:
        """Return what `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: for anything that it does not write.
        """
        least, answered, wrong = plain["least"], plain["answered"], plain["wrong"]
        if not 1 <= len(least) == len(answered) == len(wrong) <= _THRESHOLDS:
            raise ValueError("no risk curve")
        if any(type(each) is not float or not 0 <= each <= 1 for each in least) or least[-1] != 0:
            raise ValueError("no probabilities of a risk curve")
        if any(type(each) is not int or each < 0 for each in (*answered, *wrong)) or not answered[0]:
            raise ValueError("no counts of a risk curve")
        steps = itertools.pairwise(zip(least, answered, wrong, strict=True))
        for (upper, fewer, before), (lower, more, after) in steps:
            if not (upper > lower and 0 <= after - before <= more - fewer):
                raise ValueError("a risk curve that does not go on")
        if wrong[0] > answered[0]:
            raise ValueError("more wrong labels than labels")
        return cls(tuple(least), tuple(answered), tuple(wrong))


def lowest(rows: int) -> float:
    """Return the lowest risk that so many rows can promise, none of them labelled wrong."""
    return float(1 - _DOUBT ** (1 / rows)) if rows else 1.0


def fewest(risk: float) -> int:
    """Return the rows that a risk needs: of fewer, all of them right, the bound is higher."""
    return math.ceil(math.log(_DOUBT) / math.log1p(-risk) - 1e-9)
