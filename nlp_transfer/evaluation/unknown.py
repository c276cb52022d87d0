"""Novelty detectors: scores of how unlike the training data a text is, and the tensors they need.

They work on logits, features and classes; know neither models nor files. `hidden_classes` selects one for a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

MOST_ROWS = 10_000  # training rows saved with the model; with 1,152 features they take 23 MB
_BLOCK = 1024  # rows scored at once
_ROUNDING = 1e-6  # squared distances up to this are rounding errors


class Detector(Protocol):
    """A novelty score of rows; higher means less like the training data."""

    def scores(self, logits: np.ndarray, features: np.ndarray | None) -> np.ndarray:
        """Return float64 (rows,).

        Args:
            logits: (rows, outputs).
            features: (rows, width), the inputs of the output layer; None if the detector needs none.
        """

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the tensors to save with the model."""

    @classmethod
    def of(cls, tensors: Mapping[str, np.ndarray]) -> Self:
        """Restore the detector from its `tensors`; KeyError or ValueError for anything else."""


class _OfLogits:
    """A detector without tensors."""

    def tensors(self) -> dict[str, np.ndarray]:
        """Return nothing."""
        return {}

    @classmethod
    def of(cls, tensors: Mapping[str, np.ndarray]) -> Self:
        """Return the detector."""
        return cls()


@dataclass(frozen=True)
class Energy(_OfLogits):
    r"""The free energy :math:`-\log \sum_c e^{z_c}` of the logits: high if no class has any evidence.

    Liu et al. 2020, "Energy-based Out-of-distribution Detection", NeurIPS.
    """

    def scores(self, logits: np.ndarray, features: np.ndarray | None) -> np.ndarray:
        """Return float64 (rows,)."""
        from scipy.special import logsumexp

        return -logsumexp(np.asarray(logits, dtype=np.float64), axis=1)


@dataclass(frozen=True)
class Probability(_OfLogits):
    """One minus the highest probability.

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

    All classes share one covariance (Lee et al. 2018, "A Simple Unified Framework for Detecting Out-of-Distribution
    Samples", NeurIPS), shrunk towards a multiple of the identity (Ledoit and Wolf 2004).

    Attributes:
        centre: float32 (width,), the mean of all rows.
        factor: float32 (width, width), upper triangular; `factor @ factor.T` is the inverse covariance.
        means: float32 (classes, width), the centred class means times the factor.
    """

    centre: np.ndarray
    factor: np.ndarray
    means: np.ndarray

    @classmethod
    def fit(cls, moments: Moments) -> Self:
        """Fit the detector to the class statistics."""
        factor, means = _factor(moments.covariance()), moments.means()
        return cls(*(part.astype(np.float32) for part in (moments.centre(), factor, means @ factor)))

    def scores(self, logits: np.ndarray, features: np.ndarray | None) -> np.ndarray:
        """Return float64 (rows,)."""
        assert features is not None
        return self.distances(features)

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Return the distances of features, (rows, width), to their nearest class mean, float64 (rows,)."""
        distances = np.empty(len(features))
        norms = np.square(self.means, dtype=np.float64).sum(axis=1)
        for start in range(0, len(features), _BLOCK):
            whitened = (features[start : start + _BLOCK] - self.centre) @ self.factor
            squares = np.square(whitened, dtype=np.float64).sum(axis=1)
            distances[start : start + _BLOCK] = squares + (norms - 2.0 * (whitened @ self.means.T)).min(axis=1)
        return distances

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the three attributes."""
        return {"centre": self.centre, "factor": self.factor, "means": self.means}

    @classmethod
    def of(cls, tensors: Mapping[str, np.ndarray]) -> Self:
        """Restore the detector from its `tensors`."""
        width = len(tensors["centre"])
        if tensors["factor"].shape != (width, width) or tensors["means"].shape[1:] != (width,):
            raise ValueError("centre, factor and means are not of one width")
        return cls(tensors["centre"], tensors["factor"], tensors["means"])


@dataclass(frozen=True)
class RelativeMahalanobis:
    """The distance of `Mahalanobis` less the distance to the overall mean under the total covariance.

    This discounts what is unusual about a text independently of its class. Ren et al. 2021, "A Simple Fix to
    Mahalanobis Distance for Improving Near-OOD Detection".

    Attributes:
        near: the distance to the nearest class.
        background: float32 (width, width), the factor of the inverse total covariance.
    """

    near: Mahalanobis
    background: np.ndarray

    @classmethod
    def fit(cls, moments: Moments) -> Self:
        """Fit the detector to the class statistics."""
        return cls(Mahalanobis.fit(moments), _factor(moments.covariance(whole=True)).astype(np.float32))

    def scores(self, logits: np.ndarray, features: np.ndarray | None) -> np.ndarray:
        """Return float64 (rows,)."""
        assert features is not None
        near, far = self.distances(features)
        return near - far

    def distances(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the distances to the nearest class and to the overall mean, float64 (rows,) each."""
        origin = np.zeros((1, len(self.background)), np.float32)
        far = Mahalanobis(self.near.centre, self.background, origin)
        return self.near.distances(features), far.distances(features)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the tensors of the near distance, and the background."""
        return self.near.tensors() | {"background": self.background}

    @classmethod
    def of(cls, tensors: Mapping[str, np.ndarray]) -> Self:
        """Restore the detector from its `tensors`."""
        if tensors["background"].shape != tensors["factor"].shape:
            raise ValueError("factor and background are not of one width")
        return cls(Mahalanobis.of(tensors), tensors["background"])


def _factor(covariance: np.ndarray) -> np.ndarray:
    """Return the upper triangular matrix F such that F @ F.T is the inverse of the covariance."""
    from scipy.linalg import solve_triangular

    lower = np.linalg.cholesky(covariance)
    return solve_triangular(lower, np.eye(len(lower)), lower=True).T


@dataclass(frozen=True)
class Moments:
    """The class statistics that a covariance shared by all classes is computed from.

    Attributes:
        counts: float64 (classes,), rows per class.
        sums: float64 (classes, width), sums of features per class.
        scatter: float64 (width, width), the sum of the outer products of all rows less their class means.
        fourth: the sum of the fourth powers of the rows' distances from their class means.
    """

    counts: np.ndarray
    sums: np.ndarray
    scatter: np.ndarray
    fourth: float

    @classmethod
    def of(cls, features: np.ndarray, classes: np.ndarray, labels: int) -> Moments:
        """Compute them from features, (rows, width), and classes, int (rows,), below `labels`."""
        counts = np.bincount(classes, minlength=labels).astype(np.float64)
        centred = features.astype(np.float64)
        sums = np.zeros((labels, features.shape[1]))
        np.add.at(sums, classes, centred)
        centred -= sums[classes] / counts[classes, None]
        return cls(counts, sums, centred.T @ centred, float(np.square(np.square(centred).sum(axis=1)).sum()))

    def centre(self) -> np.ndarray:
        """Return the mean of all rows, (width,)."""
        return self.sums.sum(axis=0) / self.counts.sum()

    def means(self) -> np.ndarray:
        """Return the means of the classes that have rows, less the overall mean, (classes with rows, width)."""
        present = self.counts > 0
        return self.sums[present] / self.counts[present, None] - self.centre()

    def covariance(self, *, whole: bool = False) -> np.ndarray:
        """Return the shrunk within-class (or, if `whole`, total) covariance, (width, width), positive definite.

        Both use the shrinkage of the within-class covariance. With a shrinkage of its own each, the difference of the
        two distances would reflect shrinkage if classes are few (AUROC on hidden classes of TREC: 0.34, not 0.81).
        """
        rows, width = self.counts.sum(), len(self.scatter)
        sample = self.scatter / rows
        mean = np.trace(sample) / width
        squares = np.square(sample).sum()
        error = max(self.fourth / rows - squares, 0.0) / rows
        dispersion = squares - width * mean**2
        shrinkage = min(1.0, error / dispersion) if dispersion > 0 else 1.0
        if whole:
            means = self.means()
            sample = sample + (means.T * self.counts[self.counts > 0]) @ means / rows
            mean = np.trace(sample) / width
        ridge = 1e-6 * mean or 1.0  # keeps the matrix invertible if features are constant
        return (1 - shrinkage) * sample + (shrinkage * mean + ridge) * np.eye(width)


@dataclass(frozen=True)
class Neighbours:
    """The distance to the nearest training row, both scaled to length 1.

    Sun et al. 2022, "Out-of-Distribution Detection with Deep Nearest Neighbors", ICML, use the fiftieth neighbour on
    large data sets; here, a class may have few rows.

    Attributes:
        rows: float16 (rows, width), of length 1; float16 is precise to 1/2000, a hundredth of how texts differ.
    """

    rows: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray) -> Self:
        """Fit the detector to features of training rows, (rows, width)."""
        return cls(scaled(features).astype(np.float16))

    def scores(self, logits: np.ndarray, features: np.ndarray | None) -> np.ndarray:
        """Return float64 (rows,), from 0 to 2."""
        assert features is not None
        bank, cosines = self.rows.astype(np.float32), np.empty(len(features))  # with the nearest row
        for start in range(0, len(features), _BLOCK):
            cosines[start : start + _BLOCK] = (scaled(features[start : start + _BLOCK]) @ bank.T).max(axis=1)
        squares = 2 - 2 * cosines
        return np.sqrt(np.where(squares > _ROUNDING, squares, 0.0))

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the rows."""
        return {"rows": self.rows}

    @classmethod
    def of(cls, tensors: Mapping[str, np.ndarray]) -> Self:
        """Restore the detector from its `tensors`."""
        if tensors["rows"].ndim != 2 or not len(tensors["rows"]):
            raise ValueError("there are no rows")
        return cls(tensors["rows"])


def scaled(features: np.ndarray) -> np.ndarray:
    """Return float32 rows of length 1; zero rows stay zero."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return (features / np.where(lengths > 0, lengths, 1)).astype(np.float32)


DETECTORS: dict[str, type[Detector]] = {
    "probability": Probability,
    "energy": Energy,
    "mahalanobis": Mahalanobis,
    "relative_mahalanobis": RelativeMahalanobis,
    "neighbours": Neighbours,
}
OF_LOGITS = ("probability", "energy")  # need logits only, and so work in every export
