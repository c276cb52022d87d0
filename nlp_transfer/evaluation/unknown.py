"""How unlike a text is to all that a model was trained on: scores of that, and what must be kept to compute them.

Knows logits, features and classes; neither models nor files. Which score suits a model is the business of `hiding`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

MOST_ROWS = 10_000  # kept of the training rows; 1,152 features each are then 23 MB
_BLOCK = 1024  # rows that are scored at once
_SAME = 1e-6  # squared distance of what is the same but for rounding


class Detector(Protocol):
    """A score of rows; higher is stranger."""

    def scores(self, logits: np.ndarray, features: np.ndarray | None) -> np.ndarray:
        """Return float64 (rows,).

        Args:
            logits: (rows, outputs).
            features: (rows, width), what enters the output layer; None where the score needs none.
        """

    def tensors(self) -> dict[str, np.ndarray]:
        """Return what must be kept beside the model."""

    @classmethod
    def of(cls, tensors: Mapping[str, np.ndarray]) -> Self:
        """Return what `tensors` wrote; KeyError or ValueError for anything else."""


class _OfLogits:
    """A score for which nothing is kept."""

    def tensors(self) -> dict[str, np.ndarray]:
        """Return nothing."""
        return {}

    @classmethod
    def of(cls, tensors: Mapping[str, np.ndarray]) -> Self:
        """Return the score."""
        return cls()


@dataclass(frozen=True)
class Energy(_OfLogits):
    r"""The free energy :math:`-\log \sum_c e^{z_c}` of the logits: high where no class has any evidence.

    Nothing is kept for it. Liu et al. 2020, "Energy-based Out-of-distribution Detection", NeurIPS.
    """

    def scores(self, logits: np.ndarray, features: np.ndarray | None) -> np.ndarray:
        """Return float64 (rows,)."""
        from scipy.special import logsumexp

        return -logsumexp(np.asarray(logits, dtype=np.float64), axis=1)


@dataclass(frozen=True)
class Probability(_OfLogits):
    """One minus the highest probability, for which nothing is kept.

    Hendrycks and Gimpel 2017, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural
    Networks", ICLR.
    """

    def scores(self, logits: np.ndarray, features: np.ndarray | None) -> np.ndarray:
        """Return float64 (rows,)."""
        from scipy.special import softmax

        return 1 - softmax(np.asarray(logits, dtype=np.float64), axis=1).max(axis=1)


@dataclass(frozen=True)
class Mahalanobis:
    r"""The squared distance to the nearest class mean, :math:`\min_c (x - \mu_c)^\top \Sigma^{-1} (x - \mu_c)`.

    There is one covariance for all classes (Lee et al. 2018, "A Simple Unified Framework for Detecting
    Out-of-Distribution Samples", NeurIPS), shrunk towards a multiple of the identity (Ledoit and Wolf 2004).

    Attributes:
        centre: float32 (width,), the mean of all rows.
        factor: float32 (width, width), upper triangular; its product with itself transposed is the inverse covariance.
        means: float32 (classes, width), what the factor makes of the class means less the centre.
    """

    centre: np.ndarray
    factor: np.ndarray
    means: np.ndarray

    @classmethod
    def fit(cls, moments: Moments) -> Self:
        """Return the score for rows of the classes of `moments`."""
        factor, means = _factor(moments.covariance()), moments.means()
        return cls(*(part.astype(np.float32) for part in (moments.centre(), factor, means @ factor)))

    def scores(self, logits: np.ndarray, features: np.ndarray | None) -> np.ndarray:
        """Return float64 (rows,)."""
        assert features is not None
        return self.distances(features)

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Return them for features, (rows, width), as float64 (rows,)."""
        found = np.empty(len(features))
        norms = np.square(self.means, dtype=np.float64).sum(axis=1)
        for start in range(0, len(features), _BLOCK):
            white = (features[start : start + _BLOCK] - self.centre) @ self.factor
            own = np.square(white, dtype=np.float64).sum(axis=1)
            found[start : start + _BLOCK] = own + (norms - 2.0 * (white @ self.means.T)).min(axis=1)
        return found

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the three attributes."""
        return {"centre": self.centre, "factor": self.factor, "means": self.means}

    @classmethod
    def of(cls, tensors: Mapping[str, np.ndarray]) -> Self:
        """Return what `tensors` wrote."""
        width = len(tensors["centre"])
        if tensors["factor"].shape != (width, width) or tensors["means"].shape[1:] != (width,):
            raise ValueError("centre, factor and means are not of one width")
        return cls(tensors["centre"], tensors["factor"], tensors["means"])


@dataclass(frozen=True)
class RelativeMahalanobis:
    """The distance of `Mahalanobis` less that to the mean of all rows under the covariance of all.

    What is odd about a text whatever its class may be does not count then. Ren et al. 2021, "A Simple Fix to
    Mahalanobis Distance for Improving Near-OOD Detection".

    Attributes:
        near: the distance to the nearest class.
        background: float32 (width, width), the factor of the covariance of all.
    """

    near: Mahalanobis
    background: np.ndarray

    @classmethod
    def fit(cls, moments: Moments) -> Self:
        """Return the score for rows of the classes of `moments`."""
        return cls(Mahalanobis.fit(moments), _factor(moments.covariance(whole=True)).astype(np.float32))

    def scores(self, logits: np.ndarray, features: np.ndarray | None) -> np.ndarray:
        """Return float64 (rows,)."""
        assert features is not None
        near, far = self.distances(features)
        return near - far

    def distances(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the distances to the nearest class, as `Mahalanobis` has them, and to the mean of all, float64."""
        nowhere = np.zeros((1, len(self.background)), np.float32)
        far = Mahalanobis(self.near.centre, self.background, nowhere)
        return self.near.distances(features), far.distances(features)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return those of the near distance, and the background."""
        return self.near.tensors() | {"background": self.background}

    @classmethod
    def of(cls, tensors: Mapping[str, np.ndarray]) -> Self:
        """Return what `tensors` wrote."""
        if tensors["background"].shape != tensors["factor"].shape:
            raise ValueError("factor and background are not of one width")
        return cls(Mahalanobis.of(tensors), tensors["background"])


def _factor(covariance: np.ndarray) -> np.ndarray:
    """Return the upper triangular matrix whose product with itself transposed is the inverse."""
    from scipy.linalg import solve_triangular

    lower = np.linalg.cholesky(covariance)
    return solve_triangular(lower, np.eye(len(lower)), lower=True).T


@dataclass(frozen=True)
class Moments:
    """What a covariance shared by classes needs of rows.

    Attributes:
        counts: float64 (classes,).
        sums: float64 (classes, width).
        scatter: float64 (width, width), the sum of the outer products of all rows less their class means.
        fourth: the sum of the fourth powers of their distances from these.
    """

    counts: np.ndarray
    sums: np.ndarray
    scatter: np.ndarray
    fourth: float

    @classmethod
    def of(cls, features: np.ndarray, classes: np.ndarray, labels: int) -> Moments:
        """Return the moments of features, (rows, width), of classes, (rows,), of which there are `labels`."""
        counts = np.bincount(classes, minlength=labels).astype(np.float64)
        wide = features.astype(np.float64)
        sums = np.zeros((labels, features.shape[1]))
        np.add.at(sums, classes, wide)
        wide -= sums[classes] / counts[classes, None]
        return cls(counts, sums, wide.T @ wide, float(np.square(np.square(wide).sum(axis=1)).sum()))

    def centre(self) -> np.ndarray:
        """Return the mean of all rows, (width,)."""
        return self.sums.sum(axis=0) / self.counts.sum()

    def means(self) -> np.ndarray:
        """Return the means of the classes that have rows, less that of all, (classes, width)."""
        there = self.counts > 0
        return self.sums[there] / self.counts[there, None] - self.centre()

    def covariance(self, *, whole: bool = False) -> np.ndarray:
        """Return the shrunk covariance, (width, width), positive definite, within the classes or of the whole.

        Both are shrunk by the share that suits the first: each by its own, the difference of their distances is one of
        shrinking where classes are few (the AUROC with hidden classes of TREC is 0.34 then, not 0.81).
        """
        rows, width = self.counts.sum(), len(self.scatter)
        sample = self.scatter / rows
        mean = np.trace(sample) / width
        spread = np.square(sample).sum()
        error = max(self.fourth / rows - spread, 0.0) / rows
        far = spread - width * mean**2
        share = min(1.0, error / far) if far > 0 else 1.0
        if whole:
            means = self.means()
            sample = sample + (means.T * self.counts[self.counts > 0]) @ means / rows
            mean = np.trace(sample) / width
        # Features that never vary would leave nothing to divide by.
        least = 1e-6 * mean or 1.0
        return (1 - share) * sample + (share * mean + least) * np.eye(width)


@dataclass(frozen=True)
class Neighbours:
    """The distance to the nearest training row, both scaled to length 1.

    Sun et al. 2022, "Out-of-Distribution Detection with Deep Nearest Neighbors", ICML, who measure to the fiftieth on
    large sets: here a class may have few.

    Attributes:
        rows: float16 (rows, width), scaled; a half is a two-thousandth off, a hundredth of what texts differ by.
    """

    rows: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray) -> Self:
        """Return the score for neighbours among features, (rows, width)."""
        return cls(scaled(features).astype(np.float16))

    def scores(self, logits: np.ndarray, features: np.ndarray | None) -> np.ndarray:
        """Return float64 (rows,), from 0 to 2."""
        assert features is not None
        bank, found = self.rows.astype(np.float32), np.empty(len(features))  # the greatest cosine of each
        for start in range(0, len(features), _BLOCK):
            found[start : start + _BLOCK] = (scaled(features[start : start + _BLOCK]) @ bank.T).max(axis=1)
        squares = 2 - 2 * found
        return np.sqrt(np.where(squares > _SAME, squares, 0.0))

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the rows."""
        return {"rows": self.rows}

    @classmethod
    def of(cls, tensors: Mapping[str, np.ndarray]) -> Self:
        """Return what `tensors` wrote."""
        if tensors["rows"].ndim != 2 or not len(tensors["rows"]):
            raise ValueError("there are no rows")
        return cls(tensors["rows"])


def scaled(features: np.ndarray) -> np.ndarray:
    """Return float32 rows of length 1; one without any length stays."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return (features / np.where(lengths > 0, lengths, 1)).astype(np.float32)


DETECTORS: dict[str, type[Detector]] = {
    "probability": Probability,
    "energy": Energy,
    "mahalanobis": Mahalanobis,
    "relative_mahalanobis": RelativeMahalanobis,
    "neighbours": Neighbours,
}
OF_LOGITS = ("probability", "energy")  # which need nothing else, and so work in every export
