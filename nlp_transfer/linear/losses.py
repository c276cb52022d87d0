"""Convex losses of a linear layer's outputs, with their derivatives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_SAMPLED = 4  # rows per feature that suffice to estimate second moments


@dataclass(frozen=True)
class TrainingRows:
    """Features, targets and weights.

    Attributes:
        x: float32 (rows, width).
        y: float32 (outputs, rows): distributions (softmax), values in [0, 1] (sigmoid), or numbers (squared).
        w: float32 (rows,), positive.
        loss: "softmax", "sigmoid" (mean over outputs) or "squared" (likewise).
        positive_weights: (outputs,) factors of the positive part of the sigmoid loss.
        intercept: whether there is a bias; it is not penalised.
    """

    x: np.ndarray
    y: np.ndarray
    w: np.ndarray
    loss: str
    positive_weights: np.ndarray | None
    intercept: bool

    def losses_and_gradients(self, z: np.ndarray, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return the losses (problems, rows) of outputs z (problems, outputs, rows), and their gradient by z.

        z is overwritten.
        """
        y = self.y[:, rows]
        if self.loss == "softmax":
            z -= z.max(1, keepdims=True)
            losses = -(z * y).sum(1)
            np.exp(z, out=z)
            total, mass = z.sum(1), y.sum(0)
            losses += mass * np.log(total)
            z *= (mass / total)[:, None]
            z -= y
            return losses, z
        if self.loss == "sigmoid":
            positive, negative = self._sides(y)
            small = np.exp(-np.abs(z))
            softplus = np.maximum(z, 0) + np.log1p(small)
            losses = (positive * (softplus - z) + negative * softplus).mean(1)
            p = np.where(z >= 0, 1, small) / (1 + small)
            return losses, (negative * p - positive * (1 - p)) / np.float32(len(y))
        z -= y
        return np.square(z).mean(1), z * np.float32(2 / len(y))

    def curvatures(self, z: np.ndarray, rows: slice, *, halfway: bool) -> np.ndarray:
        """Return the diagonal second derivatives of the losses by the outputs z (problems, outputs, rows).

        Args:
            z: the outputs.
            rows: of the outputs.
            halfway: take them halfway to the targets, where they are closer to those of the solution.
        """
        y = self.y[:, rows]
        if self.loss == "squared":
            return np.full_like(z, 2 / len(y))
        if self.loss == "softmax":
            p = np.exp(z - z.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
        else:
            p = 1 / (1 + np.exp(np.minimum(-z, 60)))
        if halfway:
            p = (p + y) / 2
        if self.loss == "softmax":
            return p * (1 - p)
        positive, negative = self._sides(y)
        return (positive + negative) * p * (1 - p) / np.float32(len(y))

    def _sides(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        beta = 1 if self.positive_weights is None else self.positive_weights.astype(np.float32)[:, None]
        return beta * y, 1 - y

    def moments(self) -> np.ndarray:
        """Return the features' second moments (width, width); for softmax about the class means."""
        step = max(1, len(self.x) // (_SAMPLED * self.x.shape[1]))
        x, y, w = self.x[::step], self.y[:, ::step], self.w[::step]
        w = w / w.sum()
        moments = (x * w[:, None]).T @ x
        if self.loss == "softmax":
            y = y * w
            masses = np.maximum(y.sum(1, keepdims=True), 1e-12)
            means = y @ x / masses
            moments -= (masses * means).T @ means
        return moments
