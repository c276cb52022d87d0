"""Linear layers on the same rows under an L2 penalty, solved together: one on all rows, or one for each fold left out.

All problems share every pass over the rows, which lie sorted by fold and are not copied. The method is L-BFGS (Liu and
Nocedal 1989). It starts from second derivatives that are nearly right, how features spread within a class times how
unsure the model is of that class, and carries what it learns on to the next penalty, so that few passes are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from nlp_transfer.linear.losses import Rows

_CACHED = 1 << 18  # features between the two products with them, which the processor's cache holds: 1 MiB
_ROWS = 1024  # in one product at most, where outputs are many
_TURNS = 100  # passes over the rows in which turning them once costs less than turning the weights in each
_MEMORY = 8  # steps that L-BFGS remembers
_STEPS = 500  # at most


class Directions:
    """Orthogonal directions in which features vary independently of each other, and weights along them.

    Attributes:
        rows: what is learned from; their features may be turned into these directions.
        turn: (width, directions), by which weights are turned for every pass; None where the features are instead.
        axes: (features, directions): from weights along the directions to those of the features as they came.
        spread: (directions,): the features' second moments.
    """

    def __init__(self, rows: Rows, *, problems: int) -> None:
        """Find them for rows on which so many problems will be solved."""
        from scipy.linalg import eigh, qr

        kept = None
        if len(rows.x) < rows.x.shape[1]:  # no solution leaves the space that the rows span
            kept, coordinates = qr(rows.x.T, mode="economic", check_finite=False)
            rows = replace(rows, x=np.ascontiguousarray(coordinates.T))
        spread, turn = eigh(rows.moments(), driver="evd", overwrite_a=True, check_finite=False)
        self.spread = np.maximum(spread, 0)
        self.axes = turn if kept is None else kept @ turn
        turned = kept is not None or len(rows.x) < _TURNS * problems * len(rows.y)
        self.turn = None if turned else turn
        self.rows = replace(rows, x=rows.x @ turn) if turned else rows

    def inward(self, weights: np.ndarray) -> np.ndarray:
        """Return weights (..., directions) as those of the rows' features."""
        if self.turn is None:
            return weights
        return (weights.reshape(-1, weights.shape[-1]) @ self.turn.T).reshape(weights.shape)

    def outward(self, slopes: np.ndarray) -> np.ndarray:
        """Return derivatives by the weights of the rows' features as those by weights along the directions."""
        if self.turn is None:
            return slopes
        return (slopes.reshape(-1, slopes.shape[-1]) @ self.turn).reshape(slopes.shape)


class Problems:
    r"""Minimise :math:`\sum_i w_i \ell_i / \sum_i w_i + \frac{\lambda}{2} \|W\|^2` over all rows, or without each fold.

    A solution is float32 (problems, outputs, directions + 1), the bias last.

    Args:
        directions: of the rows.
        folds: the number of rows in each fold, in their order; None: one problem on all rows.
    """

    def __init__(self, directions: Directions, folds: Sequence[int] | None = None) -> None:
        self.directions, rows = directions, directions.rows
        sizes = [len(rows.x)] if folds is None else list(folds)
        count, ends = len(sizes), np.cumsum([0, *sizes]).tolist()
        self._shape = count, len(rows.y), rows.x.shape[1] + 1
        # Of each fold: its rows, and the problems that learn from them.
        self._blocks = [
            (range(*ends[fold : fold + 2]), [each for each in range(count) if folds is None or each != fold])
            for fold in range(count)
        ]
        self._masses = np.zeros((count, 1), np.float32)
        for block, learning in self._blocks:
            self._masses[learning] += rows.w[block.start : block.stop].sum(dtype=np.float64)
        self._memory = _Memory()

    @property
    def outputs(self) -> int:
        """How many outputs a layer has."""
        return self._shape[1]

    def solve(self, penalty: float, start: np.ndarray | None, *, tolerance: float) -> np.ndarray:
        """Return the solution at a penalty.

        Args:
            penalty: λ.
            start: a solution nearby; None: nothing is known.
            tolerance: share of the objective by which it is too large in the end, as the second derivatives tell.
        """
        at = np.zeros(self._shape, np.float32) if start is None else start
        doubts = np.zeros(self._shape, np.float32)
        value, slope = self._objective(at, penalty, doubts=doubts, halfway=start is None)
        curvature = self._curvature(doubts, penalty)
        self._memory.move_to(penalty)
        for _ in range(_STEPS):
            if float(np.vdot(slope, curvature.divide(slope))) / 2 <= tolerance * value:
                break
            way = self._memory.direction(slope, curvature)
            descent, length = -float(np.vdot(slope, way)), 1.0
            while True:
                there = at - np.float32(length) * way
                new_value, new_slope = self._objective(there, penalty)
                rise = new_value - value - length * descent
                if new_value <= value + 1e-4 * length * descent + 1e-7 * value:  # 1e-7: what rounding makes of it
                    break
                length *= min(0.5, max(0.1, -descent * length / (2 * rise)))
                if length < 1e-4:
                    return at
            self._memory.add(there - at, new_slope - slope)
            at, value, slope = there, new_value, new_slope
        return at

    def held_out(self, solution: np.ndarray) -> np.ndarray:
        """Return float32 (rows,): each row's loss under the problem that was solved without it."""
        rows = self.directions.rows
        weights, losses = self.directions.inward(solution[:, :, :-1]), np.empty(len(rows.x), np.float32)
        for fold, (block, _) in enumerate(self._blocks):
            for part in _parts(block, _ROWS):
                z = weights[fold] @ rows.x[part].T + solution[fold, :, -1:]
                losses[part] = rows.losses_and_slopes(z[None], part)[0]
        return losses

    def outputs_held_out(self, solution: np.ndarray) -> np.ndarray:
        """Return float32 (rows, outputs): each row's outputs under the problem that was solved without it."""
        x = self.directions.rows.x
        weights, outputs = self.directions.inward(solution[:, :, :-1]), np.empty((len(x), self._shape[1]), np.float32)
        for fold, (block, _) in enumerate(self._blocks):
            part = slice(block.start, block.stop)
            outputs[part] = x[part] @ weights[fold].T + solution[fold, :, -1]
        return outputs

    def original(self, solution: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return weights (outputs, features) and bias (outputs,) of the first problem, for features as they came."""
        return solution[0, :, :-1] @ self.directions.axes.T, solution[0, :, -1]

    def _objective(
        self, solution: np.ndarray, penalty: float, *, doubts: np.ndarray | None = None, halfway: bool = False
    ) -> tuple[float, np.ndarray]:
        """Return the sum of the problems' objectives and its slope.

        Args:
            solution: where.
            penalty: λ.
            doubts: gets added to it the second derivatives by the outputs, times the features and a one.
            halfway: see `Rows.curvatures`.
        """
        rows, value, slope = self.directions.rows, 0.0, np.zeros(self._shape, np.float32)
        for part, learning, z, share in self._passes(solution):
            if doubts is not None:
                self._add(doubts, learning, rows.curvatures(z, part, halfway=halfway) * share[:, None], part)
            losses, slopes = rows.losses_and_slopes(z, part)
            value += float((losses * share).sum())
            slopes *= share[:, None]
            self._add(slope, learning, slopes, part)
        for sums in (slope, doubts):
            if sums is not None:
                sums[:, :, :-1] = self.directions.outward(sums[:, :, :-1])
        weights = solution[:, :, :-1]
        slope[:, :, :-1] += np.float32(penalty) * weights
        if not rows.intercept:
            slope[:, :, -1] = 0
        return value + penalty / 2 * float(np.square(weights).sum(dtype=np.float64)), slope

    def _curvature(self, doubts: np.ndarray, penalty: float) -> _Curvature:
        doubt = np.maximum(doubts[:, :, -1:], 1e-12)
        diagonal = np.concatenate([doubt * self.directions.spread + penalty, 0.05 * doubt + 1e-3 * penalty], axis=2)
        if not self.directions.rows.intercept:
            doubts[:, :, -1] = 0
        return _Curvature(diagonal.astype(np.float32), doubts / np.sqrt(doubt))

    def _passes(self, solution: np.ndarray) -> Iterator[tuple[slice, list[int], np.ndarray, np.ndarray]]:
        """Yield rows, the problems that learn from them, their outputs, and the rows' shares in each problem."""
        rows, weights = self.directions.rows, self.directions.inward(solution[:, :, :-1])
        width, outputs = rows.x.shape[1], self._shape[1]
        for block, learning in self._blocks:
            matrix, bias = weights[learning].reshape(-1, width), solution[learning, :, -1].reshape(-1, 1)
            for part in _parts(block, max(_CACHED // width, min(4 * len(matrix), _ROWS))):
                z = matrix @ rows.x[part].T
                z += bias
                yield part, learning, z.reshape(len(learning), outputs, -1), rows.w[part] / self._masses[learning]

    def _add(self, sums: np.ndarray, learning: list[int], factors: np.ndarray, part: slice) -> None:
        """Add the rows' features and a one, times their factors (problems, outputs, rows)."""
        x = self.directions.rows.x[part]
        sums[learning, :, :-1] += (factors.reshape(-1, len(x)) @ x).reshape(*factors.shape[:2], -1)
        sums[learning, :, -1] += factors.sum(2)


@dataclass(frozen=True)
class _Curvature:
    """Second derivatives by the weights of each output: a diagonal D and one direction v more, D + v vᵀ.

    What an output is unsure of lies around a point, which is the direction; the rest is the spread about it.
    """

    diagonal: np.ndarray
    direction: np.ndarray

    @cached_property
    def _scaled(self) -> np.ndarray:
        scaled = self.direction / self.diagonal
        return scaled / np.sqrt(1 + (self.direction * scaled).sum(2, keepdims=True))

    def divide(self, slope: np.ndarray) -> np.ndarray:
        """Return the slope times the inverse."""
        return slope / self.diagonal - self._scaled * (self._scaled * slope).sum(2, keepdims=True)


class _Memory:
    """The last steps and what they did to the slope, from which L-BFGS mends the second derivatives."""

    def __init__(self) -> None:
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self._penalty = 0.0

    def move_to(self, penalty: float) -> None:
        """Correct what is remembered for another penalty, whose part in the slope is known."""
        for step, change in self._pairs:
            change[:, :, :-1] += np.float32(penalty - self._penalty) * step[:, :, :-1]
        self._pairs = [pair for pair in self._pairs if float(np.vdot(*pair)) > 0]
        self._penalty = penalty

    def add(self, step: np.ndarray, change: np.ndarray) -> None:
        """Remember a step; not one that rounding bent the wrong way."""
        if float(np.vdot(step, change)) > 0:
            self._pairs = [*self._pairs[1 - _MEMORY :], (step, change)]

    def direction(self, slope: np.ndarray, curvature: _Curvature) -> np.ndarray:
        """Return the slope times the inverse of the second derivatives, of which `curvature` is a first guess."""
        shares = []
        for step, change in reversed(self._pairs):
            shares.append(float(np.vdot(step, slope)) / float(np.vdot(step, change)))
            slope = slope - np.float32(shares[-1]) * change
        way = curvature.divide(slope)
        if self._pairs:
            step, change = self._pairs[-1]
            way *= np.float32(np.vdot(step, change) / np.vdot(change, curvature.divide(change)))
        for (step, change), share in zip(self._pairs, reversed(shares), strict=True):
            way += np.float32(share - float(np.vdot(change, way)) / float(np.vdot(step, change))) * step
        return way


def _parts(block: range, size: int) -> Iterator[slice]:
    """Yield a block of rows piece by piece."""
    for start in block[::size]:
        yield slice(start, min(start + size, block.stop))
