"""Whether probabilities mean what they say: how far they are off, and the few numbers that mend it best.

Knows logits, targets and the task; neither models nor files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nlp_transfer.data.labels import number_of
from nlp_transfer.data.task import dense
from nlp_transfer.evaluation.decisions import decide, finite_logits, probabilities
from nlp_transfer.evaluation.intervals import replicates
from nlp_transfer.evaluation.metrics import compute
from nlp_transfer.evaluation.names import HIGHER_IS_BETTER
from nlp_transfer.evaluation.sums import label_shares, row_losses
from nlp_transfer.significance import is_lower

if TYPE_CHECKING:
    from nlp_transfer.data.task import Task

_BINS = 15
_SPREAD = 0.5  # standard deviation of the logarithm of a temperature before any row was seen
_FARTHEST = 3.0  # of that logarithm from zero: a factor of twenty
_FOLDS = 5
_PART = 0.5  # of the likeliest shifts
_DRAWS = 200  # resamples behind a standard error, and behind what chance makes


@dataclass(frozen=True)
class Calibration:
    """What is done to all outputs of a model: `logits / temperature + shifts`.

    Attributes:
        temperature: by which they are divided.
        shifts: (classes,), what is then added to each; empty: nothing.
    """

    temperature: float = 1.0
    shifts: tuple[float, ...] = ()

    @property
    def described(self) -> str:
        """In words."""
        words = f"a temperature of {self.temperature:.3g}"
        return f"{words}, shifts of {min(self.shifts):+.2f} to {max(self.shifts):+.2f}" if self.shifts else words

    @classmethod
    def from_json(cls, plain: Any, *, classes: int) -> Calibration:
        """Read what ``dataclasses.asdict`` made.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: for anything else.
        """
        shifts = plain.get("shifts", [])
        if not isinstance(shifts, list) or len(shifts) not in (0, classes):
            raise ValueError("calibration.shifts has a number for each class, or none")
        numbers = [None if isinstance(each, str) else number_of(each) for each in (plain["temperature"], *shifts)]
        scale, *found = (each for each in numbers if each is not None)
        if len(found) != len(shifts) or scale <= 0:
            raise ValueError("calibration is a positive temperature, and numbers as shifts")
        return cls(scale, tuple(found))

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Return calibrated logits (rows, classes)."""
        return logits / self.temperature + (np.asarray(self.shifts) if self.shifts else 0.0)

    def undo(self, logits: np.ndarray) -> np.ndarray:
        """Return the logits that `apply` was given."""
        return (logits - (np.asarray(self.shifts) if self.shifts else 0.0)) * self.temperature


def calibrate(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray, *, metric: str) -> Calibration:
    r"""Return the temperature, and a shift for each class where that is clearly better than the temperature alone.

    The shifts are half of

    .. math:: \arg\min_b \sum_i w_i \, \ell(z_i / T + b, y_i) + \frac{\|b\|^2}{2}

    with the weights :math:`w` scaled to add up to the number of rows that have any: the likeliest shifts if they are
    normally distributed around 0 with a deviation of 1 (bias-corrected temperature scaling, one after the other;
    Alexandari, Kundaje and Shrikumar 2020, "Maximum Likelihood with Bias-Corrected Calibration is Hard-To-Beat at Label
    Shift Adaptation", ICML). Whoever labels as many rows of every class teaches a model that all are alike frequent;
    where the validation rows come as they will come in use, the shifts put that right. All of a shift is best for the
    log-loss, but costs macro-F1, which counts the rare classes as much as the others; half of it was better for that
    too on nearly all that was measured (``recipes/benchmarks/scaling.py``), and has most of the gain in accuracy.

    Decisions change by them, so they must show first that they are worth it: shifts are fitted to four fifths of the
    rows and rated on the last, in turn, beside the temperature of all of them; the log-loss must be lower by more than
    a standard error (the rule of Breiman et al. 1984), and the metric not worse by more than one. A scale for each
    class as well (vector scaling, Guo et al. 2017) gained little there; isotonic regression cannot be folded into an
    output layer that plain transformers loads.

    Args:
        task: any; shifts are for single_label and ordinal tasks whose classes have no weights: those ask for another
            mix than there is. A multi_label task has a threshold for each label instead, and of a regression nothing is
            calibrated.
        logits: (rows, outputs), of rows that taught the model nothing.
        targets: as ``Task.encode`` makes them.
        weights: (rows,), their sum positive.
        metric: that decides, see ``metrics.selection_metric``.
    """
    plain = Calibration(temperature(task, logits, targets, weights))
    present = np.flatnonzero(np.asarray(weights) > 0)
    wanted = task.problem in ("single_label", "ordinal") and task.class_weights is None
    if not wanted or len(present) < 2 * _FOLDS:
        return plain
    logits, targets, weights = finite_logits(task, logits)[present], targets[present], np.asarray(weights)[present]
    fold = np.random.default_rng(0).permutation(len(present)) % _FOLDS  # rows may be sorted by class
    scaled, shifted = plain.apply(logits), np.empty_like(logits)
    for number in range(_FOLDS):
        own, rest = fold == number, fold != number
        shifted[own] = scaled[own] + _PART * likeliest_shifts(task, scaled[rest], targets[rest], weights[rest])
    lower = is_lower(row_losses(task, shifted, targets), row_losses(task, scaled, targets), weights)
    if not lower or _is_worse(task, shifted, scaled, targets, weights, metric=metric):
        return plain
    shifts = _PART * likeliest_shifts(task, scaled, targets, weights)
    return Calibration(plain.temperature, tuple(map(float, shifts)))


def _is_worse(
    task: Task, logits: np.ndarray, others: np.ndarray, targets: np.ndarray, weights: np.ndarray, *, metric: str
) -> bool:
    """Return whether the metric is worse than that of others by more than a standard error of the difference."""
    before, after = (compute(task, each, targets, weights)[metric] for each in (others, logits))
    drawn = replicates([task, task], [others, logits], targets, weights, metrics=[metric], resamples=_DRAWS, seed=0)
    spread = float(np.nanstd(drawn[1][metric] - drawn[0][metric]))
    loss = before - after if HIGHER_IS_BETTER[metric] else after - before
    return loss > spread


def likeliest_shifts(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return float64 (classes,), of logits that have their temperature; see `calibrate`, but no weight is 0.

    A class without rows is left where it is, and the others are fitted among themselves: that validation rows lack it
    says more of them than of it.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax, softmax

    mass = weights[:, None] * (len(weights) / weights.sum(dtype=np.float64))
    shares = label_shares(task, targets).toarray() * mass
    seen = np.flatnonzero(shares.sum(axis=0) > 0)
    logits, shares, found = logits[:, seen], shares[:, seen], np.zeros(logits.shape[1])

    def cost(shifts: np.ndarray) -> tuple[float, np.ndarray]:  # no products: BLAS sums as it has threads
        outputs = logits + shifts
        surplus = softmax(outputs, axis=1) * shares.sum(axis=1, keepdims=True) - shares
        value = np.square(shifts).sum() / 2 - (shares * log_softmax(outputs, axis=1)).sum()
        return float(value), surplus.sum(axis=0) + shifts

    found[seen] = minimize(cost, np.zeros(len(seen)), jac=True, method="L-BFGS-B").x
    return found


def temperature(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    r"""Return the number :math:`T` by which dividing the logits makes the targets most plausible.

    .. math:: \min_T \sum_i v_i \left(n \, \ell(z_i / T, y_i) + \ell(z_i / T, u)\right) + \frac{\log^2 T}{2 \cdot 0.5^2}

    with :math:`v_i` the share of row i in all weight and :math:`n` the number of rows with any (multi_label: the losses
    of the labels added up). That is temperature scaling (Guo et al. 2017, "On Calibration of Modern Neural Networks",
    ICML) with a log-normal prior around 1, as if one more row had been seen whose label :math:`u` is any of them alike:
    no error among n rows is not none among all. So few rows make a model that is very sure less so, and hardly any
    surer. Where a row may have several labels, it has each of them as often as rows have one on average: half of the
    labels, of which most are rare, would outweigh ten rows as they come. No decision changes by it, except for a
    multi-label threshold that is not 0.5.

    Args:
        task: the task; of a regression nothing is scaled: 1.
        logits: (rows, outputs), of rows that taught the model nothing.
        targets: as ``Task.encode`` makes them.
        weights: (rows,), their sum positive.
    """
    from scipy.optimize import minimize_scalar

    if task.problem == "regression":
        return 1.0
    logits, several = finite_logits(task, logits), task.problem == "multi_label"
    shares = dense(task, targets, np.float64)
    weights = np.asarray(weights, dtype=np.float64)
    rows, labels = np.count_nonzero(weights), logits.shape[1]
    often = 1 / labels
    if several:  # by the rule of succession: a label that none of few rows has may still occur
        often = (rows * (weights @ shares.sum(axis=1)) / weights.sum() + 1) / (rows * labels + 2)
    # What of the losses is linear in the logits, and how often what is not counts; the last row has every label alike.
    linear = rows * (shares * logits).sum(axis=1) + often * logits.sum(axis=1)
    mass = rows * (1.0 if several else shares.sum(axis=1)) + 1

    def cost(logarithm: float) -> float:
        scale = np.exp(logarithm)
        losses = mass * _normaliser(task, logits / scale) - linear / scale
        return float(weights @ losses / weights.sum() + logarithm**2 / (2 * _SPREAD**2))

    grid = np.linspace(-_FARTHEST, _FARTHEST, 9)
    near = grid[np.argmin([cost(each) for each in grid])]  # where logits are tiny, there is more than one dip
    bounds = (max(near - 1, -_FARTHEST), min(near + 1, _FARTHEST))
    return float(np.exp(minimize_scalar(cost, bounds=bounds, method="bounded").x))


def _normaliser(task: Task, logits: np.ndarray) -> np.ndarray:
    """Return (rows,): the part of the loss that does not hang on the label; multi_label: summed over the labels."""
    from scipy.special import logsumexp

    return np.logaddexp(0, logits).sum(axis=1) if task.problem == "multi_label" else logsumexp(logits, axis=1)


def calibration_error(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    r"""Return the expected calibration error: by how much stated and true frequencies differ on average, 0 to 1.

    .. math:: \sum_b \frac{\left|\sum_{i \in b} w_i \, (p_i - y_i)\right|}{\sum_i w_i}

    over 15 bins :math:`b` of equal width (Naeini et al. 2015; Guo et al. 2017): :math:`p` is the highest probability
    and :math:`y` whether its label is right; multi_label: every label of every row counts, with its own probability.
    Of a model that is right about itself it is what chance makes of so many rows, not 0. nan without rows, and for
    regression.
    """
    if task.problem == "regression" or not np.sum(weights) > 0:
        return np.nan
    bins, stated, true, counted = _binned(task, logits, targets, weights)
    return _mean_gap(bins, stated - true, counted)


def error_by_chance(
    task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray, *, confidence: float, seed: int
) -> float:
    """Return what the calibration error of a model that is right about itself stays below, with that confidence.

    Consistency resampling (Bröcker and Smith 2007, "Increasing the Reliability of Reliability Diagrams", Weather and
    Forecasting 22): answers come true as often as it was stated that they would, each for itself, on the same rows. An
    interval of the error itself would not help: resampled rows have a larger one than the rows. nan as the error is.
    """
    if task.problem == "regression" or not np.sum(weights) > 0:
        return np.nan
    bins, stated, _, counted = _binned(task, logits, targets, weights)
    random = np.random.default_rng(seed)
    errors = [_mean_gap(bins, stated - (random.random(len(stated)) < stated), counted) for _ in range(_DRAWS)]
    return float(np.quantile(errors, confidence))


def _mean_gap(bins: np.ndarray, gaps: np.ndarray, counted: np.ndarray) -> float:
    return float(np.abs(np.bincount(bins, weights=counted * gaps, minlength=_BINS)).sum() / counted.sum())


@dataclass(frozen=True)
class Bins:
    """What was stated and what was true, in the bins of `calibration_error`; nan in a bin without rows.

    Attributes:
        edges: (bins + 1,) of the stated probability.
        stated, true: (bins,): means.
        rows: int64 (bins,): how many answers are in it, whatever they weigh.
    """

    edges: np.ndarray
    stated: np.ndarray
    true: np.ndarray
    rows: np.ndarray


def reliability(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> Bins:
    """Return stated and true frequencies bin by bin; not for regression, and the sum of the weights is positive."""
    bins, stated, true, counted = _binned(task, logits, targets, weights)
    mass = np.bincount(bins, weights=counted, minlength=_BINS)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(bins, weights=counted * each, minlength=_BINS) / mass for each in (stated, true)]
    rows = np.bincount(bins[counted > 0], minlength=_BINS)
    return Bins(np.linspace(0, 1, _BINS + 1), means[0], means[1], rows)


def _binned(
    task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return of every answer its bin, what it stated, what was true, and its weight."""
    likely = probabilities(task, logits)
    if task.problem == "multi_label":
        stated, true = likely, label_shares(task, targets).toarray()
    else:
        rows, chosen = np.arange(len(likely)), decide(task, logits)
        right = targets == chosen if targets.ndim == 1 else targets[rows, chosen]
        stated, true = likely[rows, chosen, None], right[:, None]
    counted = np.broadcast_to(np.asarray(weights, dtype=np.float64)[:, None], stated.shape).ravel()
    bins = np.clip(np.ceil(stated.ravel() * _BINS).astype(np.int64) - 1, 0, _BINS - 1)
    return bins, stated.ravel(), true.ravel(), counted
