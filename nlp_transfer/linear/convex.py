"""The exact head: an L2-penalised linear layer on fixed features, solved to the optimum.

The problem is convex, so that only the penalty has to be tuned, by cross-validation on the training rows.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlp_transfer.linear.losses import TrainingRows
from nlp_transfer.linear.solver import PrincipalAxes, Solver
from nlp_transfer.machine.disk import scratch
from nlp_transfer.significance import is_lower

PENALTIES = tuple(10.0**power for power in np.arange(2.0, -6.5, -0.5))  # strong to weak
_FIRST = PENALTIES.index(10.0**-0.5)  # stronger ones are best only if labels hardly depend on features
_ROUGH, _EXACT = 3e-4, 1e-6  # tolerances in cross-validation and of the final solution
# Penalties if examples are too few for cross-validation. With so few, most predictions of classes are poor, and a weak
# penalty would make them overconfident.
_UNTRIED = {"softmax": 10.0, "sigmoid": 1e-2, "squared": 1e-2}
_IN_MEMORY, _AT_ONCE = 1 << 28, 1 << 14  # most values copied in memory (1 GiB); rows copied at a time into a file
_CLEARLY_WORSE = 2  # standard errors of the loss beyond the best, at which the search stops
_PATIENCE = 2  # penalties without improvement, after which the search stops
_SHARE, _DROPOUT = 0.3, 0.1  # in `softened`: share of the weights that is kept, dropout rate of the features


@dataclass(frozen=True)
class Head:
    """A fitted output layer.

    Attributes:
        weight: float32 (outputs, width).
        bias: float32 (outputs,), zero without an intercept.
        penalty: the chosen L2 penalty, on features scaled to unit mean variance; 0: none.
        held_out: float32 (examples,), the held-out loss of each example, zero for those that could not be held out;
            empty if there were too few examples.
    """

    weight: np.ndarray
    bias: np.ndarray
    penalty: float
    held_out: np.ndarray


@dataclass(frozen=True)
class CrossValidated:
    """A problem whose penalty has been chosen, not yet solved on all examples.

    Attributes:
        penalty: the best one by cross-validation, or a default if there were too few examples for that, on features
            scaled to unit mean variance.
        held_out: float32 (examples,), the held-out loss of each example at that penalty; empty if there were too few
            examples for cross-validation.
    """

    penalty: float
    held_out: np.ndarray
    _solver: Solver
    _folds: _Folds | None
    _centre: np.ndarray
    _scale: float
    _shift: np.ndarray
    _unit: np.ndarray

    def fit(self) -> Head:
        """Solve the problem on all examples."""
        # The mean solution of the folds is a good start.
        start = None if self._folds is None else self._folds.solution.mean(0, keepdims=True)
        matrix, bias = self._solver.original(self._solver.solve(self.penalty, start, tolerance=_EXACT))
        matrix = matrix * self._unit[:, None] / self._scale
        return Head(
            weight=matrix.astype(np.float32),
            bias=(bias * self._unit + self._shift - matrix @ self._centre).astype(np.float32),
            penalty=self.penalty,
            held_out=self.held_out,
        )

    def outputs_held_out(self) -> np.ndarray | None:
        """Return the held-out outputs of each example, float32 (examples, outputs).

        NaN for examples of weight zero; None if there were too few examples for cross-validation.
        """
        if self._folds is None:
            return None
        outputs = np.full((len(self.held_out), self._solver.outputs), np.nan, np.float32)
        held_out = self._folds.solver.outputs_held_out(self._folds.solution)
        outputs[self._folds.rows] = held_out * self._unit + self._shift
        return outputs


@dataclass(frozen=True)
class _Folds:
    """The problems with one fold held out each, solved at the best penalty.

    Attributes:
        solver: of these problems.
        solution: of the problems.
        rows: the index of the example in each of the solver's rows.
    """

    solver: Solver
    solution: np.ndarray
    rows: np.ndarray


def fit_head(features: np.ndarray, targets: np.ndarray, weights: np.ndarray, **options: Any) -> Head:
    """Choose the penalty and solve the problem; the arguments are those of `cross_validate_head`."""
    return cross_validate_head(features, targets, weights, **options).fit()


def cross_validate_head(
    features: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    *,
    loss: str,
    positive_weights: np.ndarray | None = None,
    intercept: bool = True,
    strata: np.ndarray | None = None,
    seed: int = 0,
    rival: CrossValidated | None = None,
) -> CrossValidated:
    r"""Choose λ in :math:`\sum_i w_i \ell_i / \sum_i w_i + \frac{\lambda}{2} \|W\|^2` by cross-validation.

    Args:
        features: (examples, width).
        targets: float (examples, outputs): distributions (softmax), values in [0, 1] (sigmoid), or numbers (squared).
        weights: (examples,), not all zero; examples of weight zero are left out.
        loss: "softmax", "sigmoid" (mean over outputs) or "squared".
        positive_weights: (outputs,) factors of the positive part of the sigmoid loss.
        intercept: whether there is a bias; it is not penalised.
        strata: (examples,) integers for stratified folds, such as class indices.
        seed: of the folds.
        rival: a result on the same examples. The search stops early if it is unlikely to reach a lower held-out loss.
    """
    rows = np.flatnonzero(np.asarray(weights) > 0)
    w = np.asarray(weights, dtype=np.float64)[rows]
    w /= w.sum()
    folds = _folds(len(rows), None if strata is None else strata[rows], seed)
    if folds is not None:
        order = np.argsort(folds, kind="stable")
        rows, w = rows[order], w[order]
    x = _copied(features, rows)  # to be changed in place
    y = np.asarray(targets, dtype=np.float32)[rows]
    shares = w.astype(np.float32)
    size = float(w @ np.einsum("ij,ij->i", x, x))
    centre = shares @ x if intercept else np.zeros(x.shape[1], np.float32)
    x -= centre
    # One scale for all features preserves their geometry. Features that vary by rounding errors only are not blown up.
    spread = float(w @ np.einsum("ij,ij->i", x, x))
    scale = float(np.sqrt(max(spread, 1e-10 * size) / x.shape[1])) or 1.0
    x /= np.float32(scale)
    shift, unit = np.zeros(y.shape[1], np.float32), np.ones(y.shape[1], np.float32)
    if loss == "squared":  # standardised, so that penalty and tolerance do not depend on the scale of the targets
        shift = (w @ y).astype(np.float32) if intercept else shift
        unit = np.sqrt(w @ np.square(y - shift)).astype(np.float32)
        unit[unit == 0] = 1
        y = (y - shift) / unit
    data = TrainingRows(x, np.ascontiguousarray(y.T), shares, loss, positive_weights, intercept)
    sizes = [] if folds is None else np.bincount(folds).tolist()
    axes = PrincipalAxes(data, problems=max(1, len(sizes)))
    solver = Solver(axes)
    if folds is None:
        return CrossValidated(_UNTRIED[loss], np.zeros(0, np.float32), solver, None, centre, scale, shift, unit)
    goal = (np.inf, np.inf) if rival is None else (rival.penalty, float(w @ rival.held_out[rows]))
    penalty, losses, solution = _search_penalty(Solver(axes, sizes), w, goal)
    held_out = np.zeros(len(weights), np.float32)
    held_out[rows] = losses
    # A new solver, for the one that was used keeps the memory of L-BFGS.
    solved = None if solution is None else _Folds(Solver(axes, sizes), solution, rows)
    return CrossValidated(penalty, held_out, solver, solved, centre, scale, shift, unit)


def softened(head: Head, features: np.ndarray) -> Head:
    """Return the head with smaller weights and the same mean outputs, as a start for gradient steps.

    The optimal head is confident: its losses are small, so that the encoder would hardly be trained (Tomihari and Sato
    2024, arXiv 2405.16747). A share of its weights keeps the direction and leaves more to learn. The share is further
    reduced by the noise that dropout adds to the outputs (a Wiener filter): much for features that hardly differ,
    little for those of a pretrained encoder.
    """
    outputs = features @ head.weight.T
    signal = float(outputs.var(axis=0).sum())
    noise = _DROPOUT / (1 - _DROPOUT) * float((np.square(features) @ np.square(head.weight).T).mean(axis=0).sum())
    share = _SHARE * (signal / (signal + noise) if noise else 1.0)
    bias = head.bias + (1 - share) * outputs.mean(axis=0)
    return dataclasses.replace(head, weight=head.weight * np.float32(share), bias=bias.astype(np.float32))


def _copied(features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return a copy of some rows, float32; a large one is kept in a temporary file to save memory."""
    shape = len(rows), features.shape[1]
    if math.prod(shape) <= _IN_MEMORY:
        return np.asarray(features, dtype=np.float32)[rows]
    x = scratch(shape, np.dtype(np.float32))
    for start in range(0, len(rows), _AT_ONCE):
        x[start : start + _AT_ONCE] = features[rows[start : start + _AT_ONCE]]
    return x


def _search_penalty(
    folds: Solver, w: np.ndarray, rival: tuple[float, float]
) -> tuple[float, np.ndarray, np.ndarray | None]:
    """Return the best penalty, the held-out losses of all rows there, and the solution; None if no loss is finite.

    Weaker penalties are tried until they do not improve the loss, then stronger ones if the first was the best.

    Args:
        folds: solves the problems with one fold held out each.
        w: the rows' weights, which sum to 1.
        rival: a penalty and a loss to beat. Once that penalty was tried, the search stops if two more improvements like
            the last would not suffice.
    """
    best, best_losses, best_penalty = np.inf, np.empty(0), PENALTIES[_FIRST]
    best_solution: np.ndarray | None = None
    tried: list[float] = []
    first_two: list[np.ndarray] = []  # solutions, from which the second direction is extrapolated
    for direction in (PENALTIES[_FIRST:], PENALTIES[_FIRST - 1 :: -1]):
        recent, waited = first_two[::-1], 0
        if recent and best_penalty != PENALTIES[_FIRST]:
            break
        for penalty in direction:
            # Linear extrapolation: on the logarithmic grid of penalties, solutions change at a nearly constant rate.
            start = recent[-1] if recent else None
            if len(recent) > 1:
                start = 2 * recent[-1] - recent[-2]
            solution = folds.solve(penalty, start, tolerance=_ROUGH)
            first_two, recent = [*first_two, solution][:2], [*recent, solution][-2:]
            losses = folds.held_out(solution)
            gain = best - float(w @ losses)
            if gain > 0:
                best, best_losses, best_penalty, waited = float(w @ losses), losses, penalty, 0
                best_solution = solution
            elif is_lower(best_losses, losses, w, errors=_CLEARLY_WORSE):
                break
            else:
                waited += 1
            tried.append(penalty)
            is_hopeless = rival[0] in tried and best - _PATIENCE * max(gain, 0) > rival[1]
            if waited == _PATIENCE or is_hopeless:
                break
    return best_penalty, best_losses, best_solution


def _folds(examples: int, strata: np.ndarray | None, seed: int) -> np.ndarray | None:
    """Return the stratified fold of each example; None if there are too few examples for cross-validation."""
    count = 5 if examples <= 4000 else 3
    if examples < 2 * count:
        return None
    order = np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(examples)
    if strata is not None:
        order = order[np.argsort(strata[order], kind="stable")]
    folds = np.empty(examples, dtype=np.int64)
    folds[order] = np.arange(examples) % count
    return folds
