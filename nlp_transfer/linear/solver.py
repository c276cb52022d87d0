"""A solver for L2-penalised linear layers: one on all rows, or one per held-out fold, solved together.

All problems share every pass over the rows, which are sorted by fold and not copied. The method is L-BFGS (Liu and
Nocedal 1989), preconditioned by an approximate Hessian: the covariance of the features within classes times the
uncertainty of each class. Its memory is carried over to the next penalty, so that few passes are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from nlp_transfer.linear.losses import TrainingRows

_CACHED = 1 << 18  # values of features in a chunk of rows, so that both products read them from the CPU's cache: 1 MiB
_ROWS = 1024  # in a chunk, if outputs are many
_PASSES = 100  # for so many passes, rotating the rows once is cheaper than rotating the weights in each pass
_MEMORY = 8  # steps in the memory of L-BFGS
_STEPS = 500  # most steps


class PrincipalAxes:
    """The principal axes of the features, and the change of weights between these axes and the features.

    Attributes:
        rows: the training rows; their features may be rotated to the axes.
        rotation: (width, axes), by which weights are rotated in every pass; None if the features are rotated instead.
        basis: (features, axes): maps weights along the axes to weights of the original features.
        spread: (axes,): second moments of the features along the axes.
    """

    def __init__(self, rows: TrainingRows, *, problems: int) -> None:
        """Compute the axes for rows on which a number of problems will be solved."""
        from scipy.linalg import eigh, qr

        span = None
        if len(rows.x) < rows.x.shape[1]:  # solutions lie in the span of the rows
            span, coordinates = qr(rows.x.T, mode="economic", check_finite=False)
            rows = replace(rows, x=np.ascontiguousarray(coordinates.T))
        spread, rotation = eigh(rows.moments(), driver="evd", overwrite_a=True, check_finite=False)
        self.spread = np.maximum(spread, 0)
        self.basis = rotation if span is None else span @ rotation
        rotates_rows = span is not None or len(rows.x) < _PASSES * problems * len(rows.y)
        self.rotation = None if rotates_rows else rotation
        self.rows = replace(rows, x=rows.x @ rotation) if rotates_rows else rows

    def to_rows(self, weights: np.ndarray) -> np.ndarray:
        """Return weights along the axes (..., axes) as weights of the rows' features."""
        if self.rotation is None:
            return weights
        return (weights.reshape(-1, weights.shape[-1]) @ self.rotation.T).reshape(weights.shape)

    def to_axes(self, gradient: np.ndarray) -> np.ndarray:
        """Return a gradient by weights of the rows' features as one by weights along the axes."""
        if self.rotation is None:
            return gradient
        return (gradient.reshape(-1, gradient.shape[-1]) @ self.rotation).reshape(gradient.shape)


class Solver:
    r"""Minimise :math:`\sum_i w_i \ell_i / \sum_i w_i + \frac{\lambda}{2} \|W\|^2` over all rows, or all but one fold.

    A solution is float32 (problems, outputs, axes + 1), the bias last.

    Args:
        axes: of the features.
        folds: the sizes of the folds, in the order of the rows, each held out in one problem; None: one problem on all
            rows.
    """

    def __init__(self, axes: PrincipalAxes, folds: Sequence[int] | None = None) -> None:
        self.axes, rows = axes, axes.rows
        sizes = [len(rows.x)] if folds is None else list(folds)
        count, ends = len(sizes), np.cumsum([0, *sizes]).tolist()
        self._shape = count, len(rows.y), rows.x.shape[1] + 1
        # Of each fold: its rows, and the problems that are trained on them.
        self._blocks = []
        for fold in range(count):
            trained = [problem for problem in range(count) if folds is None or problem != fold]
            self._blocks.append((range(*ends[fold : fold + 2]), trained))
        self._masses = np.zeros((count, 1), np.float32)
        for block, trained in self._blocks:
            self._masses[trained] += rows.w[block.start : block.stop].sum(dtype=np.float64)
        self._memory = _Memory()

    @property
    def outputs(self) -> int:
        """The number of outputs of a layer."""
        return self._shape[1]

    def solve(self, penalty: float, start: np.ndarray | None, *, tolerance: float) -> np.ndarray:
        """Return the solution at a penalty.

        Args:
            penalty: λ.
            start: an approximate solution; None: zeros.
            tolerance: relative error of the objective, as estimated by the Hessian.
        """
        solution = np.zeros(self._shape, np.float32) if start is None else start
        uncertainty = np.zeros(self._shape, np.float32)
        value, gradient = self._objective(solution, penalty, uncertainty=uncertainty, halfway=start is None)
        hessian = self._approximate_hessian(uncertainty, penalty)
        self._memory.move_to(penalty)
        for _ in range(_STEPS):
            if float(np.vdot(gradient, hessian.divide(gradient))) / 2 <= tolerance * value:
                break
            direction = self._memory.direction(gradient, hessian)
            slope, length = -float(np.vdot(gradient, direction)), 1.0
            while True:  # backtracking line search
                new_solution = solution - np.float32(length) * direction
                new_value, new_gradient = self._objective(new_solution, penalty)
                excess = new_value - value - length * slope
                if new_value <= value + 1e-4 * length * slope + 1e-7 * value:  # 1e-7: rounding errors
                    break
                length *= min(0.5, max(0.1, -slope * length / (2 * excess)))
                if length < 1e-4:
                    return solution
            self._memory.add(new_solution - solution, new_gradient - gradient)
            solution, value, gradient = new_solution, new_value, new_gradient
        return solution

    def held_out(self, solution: np.ndarray) -> np.ndarray:
        """Return the held-out loss of each row, float32 (rows,)."""
        rows = self.axes.rows
        weights, losses = self.axes.to_rows(solution[:, :, :-1]), np.empty(len(rows.x), np.float32)
        for fold, (block, _) in enumerate(self._blocks):
            for part in _chunks(block, _ROWS):
                z = weights[fold] @ rows.x[part].T + solution[fold, :, -1:]
                losses[part] = rows.losses_and_gradients(z[None], part)[0]
        return losses

    def outputs_held_out(self, solution: np.ndarray) -> np.ndarray:
        """Return the held-out outputs of each row, float32 (rows, outputs)."""
        x = self.axes.rows.x
        weights, outputs = self.axes.to_rows(solution[:, :, :-1]), np.empty((len(x), self._shape[1]), np.float32)
        for fold, (block, _) in enumerate(self._blocks):
            part = slice(block.start, block.stop)
            outputs[part] = x[part] @ weights[fold].T + solution[fold, :, -1]
        return outputs

    def original(self, solution: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return weights (outputs, features) and bias (outputs,) of the first problem, for the original features."""
        return solution[0, :, :-1] @ self.axes.basis.T, solution[0, :, -1]

    def _objective(
        self, solution: np.ndarray, penalty: float, *, uncertainty: np.ndarray | None = None, halfway: bool = False
    ) -> tuple[float, np.ndarray]:
        """Return the sum of the problems' objectives, and its gradient.

        Args:
            solution: the weights and biases.
            penalty: λ.
            uncertainty: an array to which the second derivatives by the outputs are added, multiplied by the features
                and, for the bias, by 1.
            halfway: see `TrainingRows.curvatures`.
        """
        rows, value, gradient = self.axes.rows, 0.0, np.zeros(self._shape, np.float32)
        for part, trained, z, share in self._passes(solution):
            if uncertainty is not None:
                self._add(uncertainty, trained, rows.curvatures(z, part, halfway=halfway) * share[:, None], part)
            losses, by_outputs = rows.losses_and_gradients(z, part)
            value += float((losses * share).sum())
            by_outputs *= share[:, None]
            self._add(gradient, trained, by_outputs, part)
        for sums in (gradient, uncertainty):
            if sums is not None:
                sums[:, :, :-1] = self.axes.to_axes(sums[:, :, :-1])
        weights = solution[:, :, :-1]
        gradient[:, :, :-1] += np.float32(penalty) * weights
        if not rows.intercept:
            gradient[:, :, -1] = 0
        return value + penalty / 2 * float(np.square(weights).sum(dtype=np.float64)), gradient

    def _approximate_hessian(self, uncertainty: np.ndarray, penalty: float) -> _Hessian:
        total = np.maximum(uncertainty[:, :, -1:], 1e-12)
        diagonal = np.concatenate([total * self.axes.spread + penalty, 0.05 * total + 1e-3 * penalty], axis=2)
        if not self.axes.rows.intercept:
            uncertainty[:, :, -1] = 0
        return _Hessian(diagonal.astype(np.float32), uncertainty / np.sqrt(total))

    def _passes(self, solution: np.ndarray) -> Iterator[tuple[slice, list[int], np.ndarray, np.ndarray]]:
        """Yield chunks of rows, the problems trained on them, their outputs, and the rows' normalised weights."""
        rows, weights = self.axes.rows, self.axes.to_rows(solution[:, :, :-1])
        width, outputs = rows.x.shape[1], self._shape[1]
        for block, trained in self._blocks:
            matrix, bias = weights[trained].reshape(-1, width), solution[trained, :, -1].reshape(-1, 1)
            for part in _chunks(block, max(_CACHED // width, min(4 * len(matrix), _ROWS))):
                z = matrix @ rows.x[part].T
                z += bias
                yield part, trained, z.reshape(len(trained), outputs, -1), rows.w[part] / self._masses[trained]

    def _add(self, sums: np.ndarray, trained: list[int], factors: np.ndarray, part: slice) -> None:
        """Add to the sums of some problems the rows' features and a 1, times factors (problems, outputs, rows)."""
        x = self.axes.rows.x[part]
        sums[trained, :, :-1] += (factors.reshape(-1, len(x)) @ x).reshape(*factors.shape[:2], -1)
        sums[trained, :, -1] += factors.sum(2)


@dataclass(frozen=True)
class _Hessian:
    """An approximate Hessian by the weights of each output: a diagonal matrix D plus a rank-one term, D + v vᵀ.

    v is the mean of the features, weighted by the uncertainty of the output, times the root of its sum. D is their
    spread about the mean, times that sum, plus the penalty.
    """

    diagonal: np.ndarray
    direction: np.ndarray

    @cached_property
    def _scaled(self) -> np.ndarray:
        scaled = self.direction / self.diagonal
        return scaled / np.sqrt(1 + (self.direction * scaled).sum(2, keepdims=True))

    def divide(self, gradient: np.ndarray) -> np.ndarray:
        """Return the inverse times the gradient."""
        return gradient / self.diagonal - self._scaled * (self._scaled * gradient).sum(2, keepdims=True)


class _Memory:
    """The memory of L-BFGS: the last steps and the changes of the gradient."""

    def __init__(self) -> None:
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self._penalty = 0.0

    def move_to(self, penalty: float) -> None:
        """Correct the changes of the gradient for another penalty, whose contribution is known."""
        for step, change in self._pairs:
            change[:, :, :-1] += np.float32(penalty - self._penalty) * step[:, :, :-1]
        self._pairs = [pair for pair in self._pairs if float(np.vdot(*pair)) > 0]
        self._penalty = penalty

    def add(self, step: np.ndarray, change: np.ndarray) -> None:
        """Add a step, unless rounding errors made its curvature negative."""
        if float(np.vdot(step, change)) > 0:
            self._pairs = [*self._pairs[1 - _MEMORY :], (step, change)]

    def direction(self, gradient: np.ndarray, hessian: _Hessian) -> np.ndarray:
        """Return the inverse Hessian, as approximated by L-BFGS from `hessian`, times the gradient."""
        shares = []
        for step, change in reversed(self._pairs):
            shares.append(float(np.vdot(step, gradient)) / float(np.vdot(step, change)))
            gradient = gradient - np.float32(shares[-1]) * change
        direction = hessian.divide(gradient)
        if self._pairs:
            step, change = self._pairs[-1]
            direction *= np.float32(np.vdot(step, change) / np.vdot(change, hessian.divide(change)))
        for (step, change), share in zip(self._pairs, reversed(shares), strict=True):
            direction += np.float32(share - float(np.vdot(change, direction)) / float(np.vdot(step, change))) * step
        return direction


def _chunks(block: range, size: int) -> Iterator[slice]:
    """Yield a block of rows in chunks."""
    for start in block[::size]:
        yield slice(start, min(start + size, block.stop))
