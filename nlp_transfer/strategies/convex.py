"""The exact head: a linear layer on fixed features, solved to its optimum along a path of L2 penalties.

The problem is convex, so there is nothing to tune but the penalty, and that is chosen by cross-validation on the
training rows. This file knows features and target distributions, not where they come from.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

PENALTIES = tuple(10.0**power for power in np.arange(2.0, -6.5, -0.5))  # strong to weak
_FIRST = PENALTIES.index(10.0**-1.0)  # stronger ones are best only where labels have little to do with features
_PATIENCE = 2  # penalties without improvement after which those beyond are not tried


@dataclass(frozen=True)
class Head:
    """A fitted output layer.

    Attributes:
        weight: float32 (outputs, width).
        bias: float32 (outputs,), zero without an intercept.
        penalty: the chosen L2 penalty, on features scaled to unit mean variance.
        held_out: float32 (examples,), each example's loss under cross-validation at that penalty; empty where there
            were too few examples to hold any out.
    """

    weight: np.ndarray
    bias: np.ndarray
    penalty: float
    held_out: np.ndarray


@dataclass(frozen=True)
class Validated:
    """A problem whose penalty is chosen and which is not solved yet.

    Attributes:
        penalty: the best one under cross-validation, on features scaled to unit mean variance.
        held_out: float32 (examples,), each example's loss under cross-validation at that penalty; empty where there
            were too few examples to hold any out.
    """

    penalty: float
    held_out: np.ndarray
    _problem: _Problem
    _start: np.ndarray
    _centre: np.ndarray
    _scale: float
    _shift: np.ndarray
    _unit: np.ndarray

    def fit(self) -> Head:
        """Solve the problem on all examples."""
        matrix, bias = self._problem.unpack(self._problem.solve(self.penalty, self._start))
        matrix = matrix * self._unit[:, None] / self._scale
        return Head(
            weight=matrix.astype(np.float32),
            bias=(bias * self._unit + self._shift - matrix @ self._centre).astype(np.float32),
            penalty=self.penalty,
            held_out=self.held_out,
        )


def fit_head(features: np.ndarray, targets: np.ndarray, weights: np.ndarray, **options: Any) -> Head:
    """Return the solution of the problem that `validate_head` describes, which takes the same arguments."""
    return validate_head(features, targets, weights, **options).fit()


def validate_head(
    features: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    *,
    loss: str,
    positive_weights: np.ndarray | None = None,
    intercept: bool = True,
    strata: np.ndarray | None = None,
    seed: int = 0,
) -> Validated:
    r"""Choose λ in :math:`\sum_i w_i \ell_i / \sum_i w_i + \frac{\lambda}{2} \|W\|^2` by cross-validation.

    Args:
        features: (examples, width).
        targets: float (examples, outputs): distributions (softmax), values in [0, 1] (sigmoid), or numbers (squared).
        weights: (examples,), not all zero; examples of weight zero are left out.
        loss: "softmax", "sigmoid" (mean over outputs) or "squared".
        positive_weights: (outputs,) factors of the positive part of the sigmoid loss.
        intercept: whether there is a bias; it is not penalised.
        strata: (examples,) integers that folds keep balanced, such as class indices.
        seed: of the folds.
    """
    counts = np.asarray(weights) > 0
    x = np.asarray(features, dtype=np.float32)[counts]
    y = np.asarray(targets, dtype=np.float32)[counts]
    w = np.asarray(weights, dtype=np.float64)[counts]
    w /= w.sum()
    centre = (w @ x).astype(np.float32) if intercept else np.zeros(x.shape[1], np.float32)
    spread, size = (float(np.sqrt(w @ np.square(values).mean(1))) for values in (x - centre, x))
    # One number: the geometry of the space stays. Features that vary by rounding alone must not be blown up to signal.
    scale = max(spread, 1e-5 * size) or 1.0
    x = (x - centre) / scale
    shift, unit = np.zeros(y.shape[1], np.float32), np.ones(y.shape[1], np.float32)
    if loss == "squared":  # in units of the targets' own spread, so that neither penalty nor tolerance depends on them
        shift = (w @ y).astype(np.float32) if intercept else shift
        unit = np.sqrt(w @ np.square(y - shift)).astype(np.float32)
        unit[unit == 0] = 1
        y = (y - shift) / unit
    problem = _Problem(x, y, w.astype(np.float32), loss, positive_weights, intercept)
    folds = _folds(len(x), None if strata is None else strata[counts], seed)
    if folds is None:
        return Validated(1e-2, np.zeros(0, np.float32), problem, problem.start(), centre, scale, shift, unit)
    penalty, losses, start = _cross_validate(problem, folds)
    held_out = np.zeros(len(counts), np.float32)
    held_out[counts] = losses
    return Validated(penalty, held_out, problem, start, centre, scale, shift, unit)


def softened(head: Head, features: np.ndarray, *, share: float = 0.3, dropout: float = 0.1) -> Head:
    """Return the head with less weight, for gradient steps to start from; its mean outputs stay.

    The optimal head is sure of itself: its losses are small and so are the changes of the encoder, which then stays
    near where it was (Tomihari and Sato 2024, arXiv 2405.16747). A share of its weight keeps the direction and leaves
    the encoder to learn. What dropout of the features would turn into noise is taken off that share as well (Wiener's
    filter): much for features that hardly differ, little for those of a pretrained encoder.
    """
    outputs = features @ head.weight.T
    signal = float(outputs.var(axis=0).sum())
    noise = dropout / (1 - dropout) * float((np.square(features) @ np.square(head.weight).T).mean(axis=0).sum())
    share *= signal / (signal + noise) if noise else 1.0
    bias = head.bias + (1 - share) * outputs.mean(axis=0)
    return dataclasses.replace(head, weight=head.weight * np.float32(share), bias=bias.astype(np.float32))


@dataclass(frozen=True)
class _Problem:
    """One weighted, penalised problem; parameters are the flat vector [W (outputs × width), bias (outputs)]."""

    x: np.ndarray
    y: np.ndarray
    w: np.ndarray  # sums to 1
    loss: str
    positive_weights: np.ndarray | None
    intercept: bool

    def start(self) -> np.ndarray:
        return np.zeros(self.y.shape[1] * (self.x.shape[1] + 1))

    def unpack(self, solution: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        outputs, width = self.y.shape[1], self.x.shape[1]
        return solution[: outputs * width].reshape(outputs, width), solution[outputs * width :]

    def part(self, rows: np.ndarray) -> _Problem:
        w = self.w[rows] / self.w[rows].sum()
        return _Problem(self.x[rows], self.y[rows], w, self.loss, self.positive_weights, self.intercept)

    def losses(self, solution: np.ndarray) -> np.ndarray:
        """Return every example's loss, without its weight and the penalty."""
        matrix, bias = self.unpack(solution.astype(np.float32))
        return self._losses_and_slope(self.x @ matrix.T + bias)[0]

    def solve(self, penalty: float, start: np.ndarray, *, roughly: bool = False) -> np.ndarray:
        from scipy.optimize import minimize

        def objective(solution: np.ndarray) -> tuple[float, np.ndarray]:
            matrix, bias = self.unpack(solution)
            losses, slope = self._losses_and_slope(self.x @ matrix.T.astype(np.float32) + bias.astype(np.float32))
            gradient = np.empty_like(solution)
            split = matrix.size
            gradient[:split] = (slope.T @ self.x).ravel() + penalty * solution[:split]
            gradient[split:] = slope.sum(0) if self.intercept else 0.0
            return float(self.w @ losses + 0.5 * penalty * (solution[:split] @ solution[:split])), gradient

        # float32 matrix products leave about 1e-7 of noise in the gradient: no point in asking for less.
        exact, rough = {"maxiter": 300, "gtol": 1e-5, "ftol": 1e-9}, {"maxiter": 100, "gtol": 1e-3, "ftol": 1e-6}
        options = rough if roughly else exact
        return minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x

    def _losses_and_slope(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return every example's loss and the gradient of their weighted mean with respect to the outputs z."""
        if self.loss == "softmax":
            z = z - z.max(1, keepdims=True)
            p = np.exp(z)
            total = p.sum(1, keepdims=True)
            p /= total
            losses = -(self.y * (z - np.log(total))).sum(1)
            return losses, (p * self.y.sum(1, keepdims=True) - self.y) * self.w[:, None]
        if self.loss == "sigmoid":
            beta = 1.0 if self.positive_weights is None else self.positive_weights.astype(np.float32)
            positive, negative = beta * self.y, 1 - self.y
            losses = (positive * np.logaddexp(0, -z) + negative * np.logaddexp(0, z)).mean(1)
            p = 1 / (1 + np.exp(-np.clip(z, -60, 60)))
            return losses, (negative * p - positive * (1 - p)) * (self.w[:, None] / z.shape[1])
        error = z - self.y
        return np.square(error).mean(1), 2 * error * (self.w[:, None] / z.shape[1])


def _cross_validate(problem: _Problem, folds: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the best penalty, every example's held-out loss there, and the folds' mean solution.

    Weaker penalties are tried until they are no better, then stronger ones if the first was the best, each fold
    starting where it was at the penalty before. The mean solution is a good start for all examples together.
    """
    masks = [folds == fold for fold in np.unique(folds)]
    parts = [(problem.part(~mask), problem.part(mask)) for mask in masks]
    first = [train.start() for train, _ in parts]
    best: tuple[float, float, np.ndarray, list[np.ndarray]] = (np.inf, np.inf, np.empty(0), first)
    for direction in (PENALTIES[_FIRST:], PENALTIES[_FIRST - 1 :: -1]):
        if direction[0] > PENALTIES[_FIRST] and best[1] != PENALTIES[_FIRST]:
            break
        solutions, waited = best[3], 0
        for penalty in direction:
            solutions = [train.solve(penalty, s, roughly=True) for (train, _), s in zip(parts, solutions, strict=True)]
            held_out = np.empty(len(folds), np.float32)
            for mask, (_, test), solution in zip(masks, parts, solutions, strict=True):
                held_out[mask] = test.losses(solution)
            risk = float(problem.w @ held_out)
            waited = 0 if risk < best[0] else waited + 1
            if risk < best[0]:
                best = (risk, penalty, held_out, solutions)
            if waited == _PATIENCE:
                break
    return best[1], best[2], np.mean(best[3], axis=0)


def _folds(examples: int, strata: np.ndarray | None, seed: int) -> np.ndarray | None:
    """Return each example's fold, strata dealt out in turn; None where there are too few examples to hold any out."""
    count = 5 if examples <= 4000 else 3
    if examples < 2 * count:
        return None
    order = np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(examples)
    if strata is not None:
        order = order[np.argsort(strata[order], kind="stable")]
    folds = np.empty(examples, dtype=np.int64)
    folds[order] = np.arange(examples) % count
    return folds
