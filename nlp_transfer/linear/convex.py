"""The exact head: a linear layer on fixed features, solved to its optimum along a path of L2 penalties.

The problem is convex, so there is nothing to tune but the penalty, and that is chosen by cross-validation on the
training rows. This file knows features and target distributions, not where they come from.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlp_transfer.linear.losses import Rows
from nlp_transfer.linear.solver import Directions, Problems
from nlp_transfer.machine.disk import scratch
from nlp_transfer.significance import is_lower

PENALTIES = tuple(10.0**power for power in np.arange(2.0, -6.5, -0.5))  # strong to weak
_FIRST = PENALTIES.index(10.0**-0.5)  # stronger ones are best only where labels have little to do with features
_ROUGHLY, _EXACTLY = 3e-4, 1e-6  # tolerances
# Where examples are too few to hold any out. Most labels are then told badly: a weak penalty would be far too sure.
_UNTRIED = {"softmax": 10.0, "sigmoid": 1e-2, "squared": 1e-2}
_IN_MEMORY, _AT_ONCE = 1 << 28, 1 << 14  # features that are copied in memory (1 GiB), and rows copied at a time else
_CLEARLY = 2  # standard errors by which a penalty must be worse for those beyond not to be tried
_SHARE, _DROPOUT = 0.3, 0.1  # of a head's weight that gradient steps start from, and what they drop of the features
_PATIENCE = 2  # penalties without improvement after which those beyond are not tried


@dataclass(frozen=True)
class Head:
    """A fitted output layer.

    Attributes:
        weight: float32 (outputs, width).
        bias: float32 (outputs,), zero without an intercept.
        penalty: the chosen L2 penalty, on features scaled to unit mean variance; 0: there is none.
        held_out: float32 (examples,), each example's loss where it was held out; empty where there were too few
            examples to hold any out, zero where that says nothing.
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
    _problem: Problems
    _folds: _Folds | None
    _centre: np.ndarray
    _scale: float
    _shift: np.ndarray
    _unit: np.ndarray

    def fit(self) -> Head:
        """Solve the problem on all examples."""
        # The mean solution of the folds is a good start for all rows together.
        start = None if self._folds is None else self._folds.solution.mean(0, keepdims=True)
        matrix, bias = self._problem.original(self._problem.solve(self.penalty, start, tolerance=_EXACTLY))
        matrix = matrix * self._unit[:, None] / self._scale
        return Head(
            weight=matrix.astype(np.float32),
            bias=(bias * self._unit + self._shift - matrix @ self._centre).astype(np.float32),
            penalty=self.penalty,
            held_out=self.held_out,
        )

    def outputs_held_out(self) -> np.ndarray | None:
        """Return what a head that did not learn from it answers to each example, float32 (examples, outputs).

        NaN for examples of weight zero; None where there were too few examples to hold any out.
        """
        if self._folds is None:
            return None
        outputs = np.full((len(self.held_out), self._problem.outputs), np.nan, np.float32)
        found = self._folds.problems.outputs_held_out(self._folds.solution)
        outputs[self._folds.rows] = found * self._unit + self._shift
        return outputs


@dataclass(frozen=True)
class _Folds:
    """The problems without each fold, solved at the best penalty.

    Attributes:
        problems: one a fold.
        solution: theirs.
        rows: the example that each of their rows is.
    """

    problems: Problems
    solution: np.ndarray
    rows: np.ndarray


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
    rival: Validated | None = None,
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
        rival: of the same examples. Where the way to lower held-out losses than its is too long, by all that is known,
            no better penalty is sought.
    """
    rows = np.flatnonzero(np.asarray(weights) > 0)
    w = np.asarray(weights, dtype=np.float64)[rows]
    w /= w.sum()
    folds = _folds(len(rows), None if strata is None else strata[rows], seed)
    if folds is not None:
        order = np.argsort(folds, kind="stable")
        rows, w = rows[order], w[order]
    x = _copied(features, rows)  # which is then changed
    y = np.asarray(targets, dtype=np.float32)[rows]
    shares = w.astype(np.float32)
    size = float(w @ np.einsum("ij,ij->i", x, x))
    centre = shares @ x if intercept else np.zeros(x.shape[1], np.float32)
    x -= centre
    # One number: the geometry of the space stays. Features that vary by rounding alone must not be blown up to signal.
    spread = float(w @ np.einsum("ij,ij->i", x, x))
    scale = float(np.sqrt(max(spread, 1e-10 * size) / x.shape[1])) or 1.0
    x /= np.float32(scale)
    shift, unit = np.zeros(y.shape[1], np.float32), np.ones(y.shape[1], np.float32)
    if loss == "squared":  # in units of the targets' own spread, so that neither penalty nor tolerance depends on them
        shift = (w @ y).astype(np.float32) if intercept else shift
        unit = np.sqrt(w @ np.square(y - shift)).astype(np.float32)
        unit[unit == 0] = 1
        y = (y - shift) / unit
    given = Rows(x, np.ascontiguousarray(y.T), shares, loss, positive_weights, intercept)
    sizes = [] if folds is None else np.bincount(folds).tolist()
    directions = Directions(given, problems=max(1, len(sizes)))
    problem = Problems(directions)
    if folds is None:
        return Validated(_UNTRIED[loss], np.zeros(0, np.float32), problem, None, centre, scale, shift, unit)
    goal = (np.inf, np.inf) if rival is None else (rival.penalty, float(w @ rival.held_out[rows]))
    penalty, losses, solution = _cross_validate(Problems(directions, sizes), w, goal)
    held_out = np.zeros(len(weights), np.float32)
    held_out[rows] = losses
    # Other problems than those that were solved: these remember how they were.
    parts = None if solution is None else _Folds(Problems(directions, sizes), solution, rows)
    return Validated(penalty, held_out, problem, parts, centre, scale, shift, unit)


def softened(head: Head, features: np.ndarray) -> Head:
    """Return the head with less weight, for gradient steps to start from; its mean outputs stay.

    The optimal head is sure of itself: its losses are small and so are the changes of the encoder, which then stays
    near where it was (Tomihari and Sato 2024, arXiv 2405.16747). A share of its weight keeps the direction and leaves
    the encoder to learn. What dropout of the features would turn into noise is taken off that share as well (Wiener's
    filter): much for features that hardly differ, little for those of a pretrained encoder.
    """
    outputs = features @ head.weight.T
    signal = float(outputs.var(axis=0).sum())
    noise = _DROPOUT / (1 - _DROPOUT) * float((np.square(features) @ np.square(head.weight).T).mean(axis=0).sum())
    share = _SHARE * (signal / (signal + noise) if noise else 1.0)
    bias = head.bias + (1 - share) * outputs.mean(axis=0)
    return dataclasses.replace(head, weight=head.weight * np.float32(share), bias=bias.astype(np.float32))


def _copied(features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return a copy of some rows, float32; a large one is in a file, or memory would be the limit of the rows."""
    shape = len(rows), features.shape[1]
    if math.prod(shape) <= _IN_MEMORY:
        return np.asarray(features, dtype=np.float32)[rows]
    x = scratch(shape, np.dtype(np.float32))
    for start in range(0, len(rows), _AT_ONCE):
        x[start : start + _AT_ONCE] = features[rows[start : start + _AT_ONCE]]
    return x


def _cross_validate(
    folds: Problems, w: np.ndarray, rival: tuple[float, float]
) -> tuple[float, np.ndarray, np.ndarray | None]:
    """Return the best penalty, every row's held-out loss there, and the solution; None where no loss is a number.

    Weaker penalties are tried until they are no better, then stronger ones if the first was the best.

    Args:
        folds: the problems without each fold.
        w: the rows' weights, which sum to 1.
        rival: a penalty and the loss there that is to be undercut. Beyond that penalty the search ends where two more
            gains like the last one would not do.
    """
    best, best_losses, best_penalty = np.inf, np.empty(0), PENALTIES[_FIRST]
    best_solution: np.ndarray | None = None
    tried: list[float] = []
    ends: list[np.ndarray] = []  # the first two, from which the second direction starts
    for direction in (PENALTIES[_FIRST:], PENALTIES[_FIRST - 1 :: -1]):
        known, waited = ends[::-1], 0
        if known and best_penalty != PENALTIES[_FIRST]:
            break
        for penalty in direction:
            # From one penalty to the next, half a power of ten away, a solution changes nearly as it did before.
            start = 2 * known[-1] - known[-2] if len(known) > 1 else known[-1] if known else None
            solution = folds.solve(penalty, start, tolerance=_ROUGHLY)
            ends, known = [*ends, solution][:2], [*known, solution][-2:]
            losses = folds.held_out(solution)
            gain = best - float(w @ losses)
            if gain > 0:
                best, best_losses, best_penalty, waited = float(w @ losses), losses, penalty, 0
                best_solution = solution
            elif is_lower(best_losses, losses, w, errors=_CLEARLY):
                break
            else:
                waited += 1
            tried.append(penalty)
            hopeless = rival[0] in tried and best - _PATIENCE * max(gain, 0) > rival[1]
            if waited == _PATIENCE or hopeless:
                break
    return best_penalty, best_losses, best_solution


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
