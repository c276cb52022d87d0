"""Calibration of probabilities: temperature and class shifts, the expected calibration error, reliability bins.

Works on logits, targets and the task; knows neither models nor files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nlp_transfer.data.labels import number_of
from nlp_transfer.data.task import dense
from nlp_transfer.evaluation.decisions import decide, finite_logits, probabilities
from nlp_transfer.evaluation.intervals import Bootstrap
from nlp_transfer.evaluation.metrics import compute
from nlp_transfer.evaluation.names import HIGHER_IS_BETTER
from nlp_transfer.evaluation.sums import label_shares, row_losses
from nlp_transfer.significance import is_lower

if TYPE_CHECKING:
    from nlp_transfer.data.task import Task

_BINS = 15
_PRIOR_DEVIATION = 0.5  # standard deviation of the prior of log T
_MOST_LOG_TEMPERATURE = 3.0  # bound of |log T|: a factor of twenty
_FOLDS = 5
_SHIFT_SHARE = 0.5  # how much of the most likely shifts is applied
_RESAMPLES = 200


@dataclass(frozen=True)
class Calibration:
    """A calibration of a model's logits: `logits / temperature + shifts`.

    Attributes:
        temperature: the divisor.
        shifts: (classes,), added after the division; empty: none.
    """

    temperature: float = 1.0
    shifts: tuple[float, ...] = ()

    @property
    def described(self) -> str:
        """A description in words."""
        words = f"a temperature of {self.temperature:.3g}"
        return f"{words}, shifts of {min(self.shifts):+.2f} to {max(self.shifts):+.2f}" if self.shifts else words

    @classmethod
    def from_json(cls, plain: Any, *, classes: int) -> Calibration:
        """Read what ``dataclasses.asdict`` returned.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: for anything else.
        """
        shifts = plain.get("shifts", [])
        if not isinstance(shifts, list) or len(shifts) not in (0, classes):
            raise ValueError("calibration.shifts has a number for each class, or none")
        numbers = [None if isinstance(each, str) else number_of(each) for each in (plain["temperature"], *shifts)]
        scale, *valid_shifts = (each for each in numbers if each is not None)
        if len(valid_shifts) != len(shifts) or scale <= 0:
            raise ValueError("calibration is a positive temperature, and numbers as shifts")
        return cls(scale, tuple(valid_shifts))

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Return calibrated logits (rows, classes)."""
        return logits / self.temperature + (np.asarray(self.shifts) if self.shifts else 0.0)

    def undo(self, logits: np.ndarray) -> np.ndarray:
        """Return the logits that `apply` was given."""
        return (logits - (np.asarray(self.shifts) if self.shifts else 0.0)) * self.temperature


def calibrate(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray, *, metric: str) -> Calibration:
    r"""Return the temperature, with a shift for each class where this is clearly better than the temperature alone.

    The shifts are half of

    .. math:: \arg\min_b \sum_i w_i \, \ell(z_i / T + b, y_i) + \frac{\|b\|^2}{2}

    where the weights :math:`w` are scaled to sum to the number of rows of positive weight. This is the maximum a
    posteriori estimate under a standard normal prior, fitted after the temperature (bias-corrected temperature scaling;
    Alexandari, Kundaje and Shrikumar 2020, "Maximum Likelihood with Bias-Corrected Calibration is Hard-To-Beat at Label
    Shift Adaptation", ICML). Training rows that were balanced by class teach a model that all classes are equally
    frequent; shifts correct that where validation rows have the class frequencies of later use. The full shift
    minimises the log-loss but costs macro-F1, which weighs rare classes like the others. Half of it improved macro-F1
    on nearly all data sets measured (``recipes/benchmarks/scaling.py``), and keeps most of the gain in accuracy.

    Shifts change decisions, so they are used only if cross-validation supports them: fitted on four fifths of the rows
    and scored on the rest, they must lower the log-loss by more than one standard error (the rule of Breiman et al.
    1984) without making the metric worse by more than one. Vector scaling, with a scale for each class as well (Guo et
    al. 2017), gained little; isotonic regression cannot be folded into an output layer that plain transformers loads.

    Args:
        task: any. Only single_label and ordinal tasks without class weights get shifts: class weights ask for other
            class frequencies than the data's. A multi_label task has a threshold for each label instead, and a
            regression is not calibrated.
        logits: (rows, outputs), of rows that the model was not trained on.
        targets: as ``Task.encode`` makes them.
        weights: (rows,), with a positive sum.
        metric: what must not get worse, see ``metrics.selection_metric``.
    """
    temperature_only = Calibration(temperature(task, logits, targets, weights))
    present = np.flatnonzero(np.asarray(weights) > 0)
    may_shift = task.problem in ("single_label", "ordinal") and task.class_weights is None
    if not may_shift or len(present) < 2 * _FOLDS:
        return temperature_only
    logits, targets, weights = finite_logits(task, logits)[present], targets[present], np.asarray(weights)[present]
    fold = np.random.default_rng(0).permutation(len(present)) % _FOLDS  # rows may be sorted by class
    scaled, shifted = temperature_only.apply(logits), np.empty_like(logits)
    for number in range(_FOLDS):
        held, rest = fold == number, fold != number
        shifted[held] = scaled[held] + _SHIFT_SHARE * likeliest_shifts(task, scaled[rest], targets[rest], weights[rest])
    has_lower_loss = is_lower(row_losses(task, shifted, targets), row_losses(task, scaled, targets), weights)
    if not has_lower_loss or _is_worse(task, shifted, scaled, targets, weights, metric=metric):
        return temperature_only
    shifts = _SHIFT_SHARE * likeliest_shifts(task, scaled, targets, weights)
    return Calibration(temperature_only.temperature, tuple(map(float, shifts)))


def _is_worse(
    task: Task, logits: np.ndarray, others: np.ndarray, targets: np.ndarray, weights: np.ndarray, *, metric: str
) -> bool:
    """Return whether `logits` score worse than `others` by more than one standard error of the difference."""
    before, after = (compute(task, each, targets, weights)[metric] for each in (others, logits))
    drawn = Bootstrap(_RESAMPLES, seed=0).replicates([task, task], [others, logits], targets, weights, metrics=[metric])
    standard_error = float(np.nanstd(drawn[1][metric] - drawn[0][metric]))
    loss = before - after if HIGHER_IS_BETTER[metric] else after - before
    return loss > standard_error


def likeliest_shifts(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the full shifts of `calibrate`, float64 (classes,), for temperature-scaled logits and positive weights.

    A class without rows keeps a shift of 0: its absence says more about the validation rows than about the class.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax, softmax

    mass = weights[:, None] * (len(weights) / weights.sum(dtype=np.float64))
    shares = label_shares(task, targets).toarray() * mass
    seen = np.flatnonzero(shares.sum(axis=0) > 0)
    logits, shares, result = logits[:, seen], shares[:, seen], np.zeros(logits.shape[1])

    def cost(shifts: np.ndarray) -> tuple[float, np.ndarray]:  # no BLAS products: their rounding varies with threads
        outputs = logits + shifts
        surplus = softmax(outputs, axis=1) * shares.sum(axis=1, keepdims=True) - shares
        value = np.square(shifts).sum() / 2 - (shares * log_softmax(outputs, axis=1)).sum()
        return float(value), surplus.sum(axis=0) + shifts

    result[seen] = minimize(cost, np.zeros(len(seen)), jac=True, method="L-BFGS-B").x
    return result


def temperature(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    r"""Fit the temperature :math:`T` that the logits are divided by.

    .. math:: \min_T \sum_i v_i \left(n \, \ell(z_i / T, y_i) + \ell(z_i / T, u)\right) + \frac{\log^2 T}{2 \cdot 0.5^2}

    where :math:`v_i` is row i's share of the total weight and :math:`n` the number of rows of positive weight
    (multi_label: losses are summed over the labels). This is temperature scaling (Guo et al. 2017, "On Calibration of
    Modern Neural Networks", ICML) with a log-normal prior around 1 and one pseudo-row whose label :math:`u` is uniform,
    because no error among n rows does not mean no error at all. So few rows make an overconfident model less
    confident, and hardly ever more. With several labels per row, the pseudo-row has each label with the mean frequency
    of labels: half of all labels, most of which are rare, would outweigh ten real rows. The temperature changes no
    decision, except for multi-label thresholds other than 0.5.

    Args:
        task: the task; 1 for regression, which is not scaled.
        logits: (rows, outputs), of rows that the model was not trained on.
        targets: as ``Task.encode`` makes them.
        weights: (rows,), with a positive sum.
    """
    from scipy.optimize import minimize_scalar

    if task.problem == "regression":
        return 1.0
    logits, several = finite_logits(task, logits), task.problem == "multi_label"
    shares = dense(task, targets, np.float64)
    weights = np.asarray(weights, dtype=np.float64)
    rows, labels = np.count_nonzero(weights), logits.shape[1]
    frequency = 1 / labels
    if several:  # by the rule of succession: a label that none of few rows has may still occur
        frequency = (rows * (weights @ shares.sum(axis=1)) / weights.sum() + 1) / (rows * labels + 2)
    # A loss is mass * normaliser - linear; the second summand of each is the pseudo-row's.
    linear = rows * (shares * logits).sum(axis=1) + frequency * logits.sum(axis=1)
    mass = rows * (1.0 if several else shares.sum(axis=1)) + 1

    def cost(logarithm: float) -> float:
        scale = np.exp(logarithm)
        losses = mass * _normaliser(task, logits / scale) - linear / scale
        return float(weights @ losses / weights.sum() + logarithm**2 / (2 * _PRIOR_DEVIATION**2))

    farthest = _MOST_LOG_TEMPERATURE
    grid = np.linspace(-farthest, farthest, 9)
    near = grid[np.argmin([cost(each) for each in grid])]  # tiny logits give more than one local minimum
    bounds = (max(near - 1, -farthest), min(near + 1, farthest))
    return float(np.exp(minimize_scalar(cost, bounds=bounds, method="bounded").x))


def _normaliser(task: Task, logits: np.ndarray) -> np.ndarray:
    """Return (rows,): the part of the loss that does not depend on the label; multi_label: summed over the labels."""
    from scipy.special import logsumexp

    return np.logaddexp(0, logits).sum(axis=1) if task.problem == "multi_label" else logsumexp(logits, axis=1)


def calibration_error(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    r"""Return the expected calibration error: the mean gap between stated and observed frequencies, 0 to 1.

    .. math:: \sum_b \frac{\left|\sum_{i \in b} w_i \, (p_i - y_i)\right|}{\sum_i w_i}

    over 15 bins :math:`b` of equal width (Naeini et al. 2015; Guo et al. 2017): :math:`p` is the highest probability
    and :math:`y` whether its label is right; multi_label: every label of every row counts, with its own probability.
    A perfectly calibrated model does not get 0 but what chance makes of so many rows. nan without rows, and for
    regression.
    """
    if task.problem == "regression" or not np.sum(weights) > 0:
        return np.nan
    bins, stated, true, mass = _binned(task, logits, targets, weights)
    return _mean_gap(bins, stated - true, mass)


def error_by_chance(
    task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray, *, confidence: float, seed: int
) -> float:
    """Return the upper bound, at that confidence, of a perfectly calibrated model's calibration error on these rows.

    Consistency resampling (Bröcker and Smith 2007, "Increasing the Reliability of Reliability Diagrams", Weather and
    Forecasting 22): each answer is drawn as right with its stated probability. A bootstrap interval of the error would
    not help, because resampled rows have a larger error than the rows themselves. nan where the error is nan.
    """
    if task.problem == "regression" or not np.sum(weights) > 0:
        return np.nan
    bins, stated, _, mass = _binned(task, logits, targets, weights)
    random = np.random.default_rng(seed)
    errors = [_mean_gap(bins, stated - (random.random(len(stated)) < stated), mass) for _ in range(_RESAMPLES)]
    return float(np.quantile(errors, confidence))


def _mean_gap(bins: np.ndarray, gaps: np.ndarray, mass: np.ndarray) -> float:
    return float(np.abs(np.bincount(bins, weights=mass * gaps, minlength=_BINS)).sum() / mass.sum())


@dataclass(frozen=True)
class Bins:
    """A reliability diagram, in the bins of `calibration_error`.

    Attributes:
        edges: (bins + 1,) of the stated probability.
        stated, true: (bins,): mean stated probability and observed frequency; nan in an empty bin.
        rows: int64 (bins,): the number of answers in each bin, unweighted.
    """

    edges: np.ndarray
    stated: np.ndarray
    true: np.ndarray
    rows: np.ndarray


def reliability(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> Bins:
    """Return the reliability diagram; not for regression, and the sum of the weights must be positive."""
    bins, stated, true, mass = _binned(task, logits, targets, weights)
    bin_mass = np.bincount(bins, weights=mass, minlength=_BINS)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(bins, weights=mass * each, minlength=_BINS) / bin_mass for each in (stated, true)]
    rows = np.bincount(bins[mass > 0], minlength=_BINS)
    return Bins(np.linspace(0, 1, _BINS + 1), means[0], means[1], rows)


def _binned(
    task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return for every answer its bin, its stated probability, whether it was right (0 to 1), and its weight."""
    likely = probabilities(task, logits)
    if task.problem == "multi_label":
        stated, true = likely, label_shares(task, targets).toarray()
    else:
        rows, chosen = np.arange(len(likely)), decide(task, logits)
        right = targets == chosen if targets.ndim == 1 else targets[rows, chosen]
        stated, true = likely[rows, chosen, None], right[:, None]
    mass = np.broadcast_to(np.asarray(weights, dtype=np.float64)[:, None], stated.shape).ravel()
    bins = np.clip(np.ceil(stated.ravel() * _BINS).astype(np.int64) - 1, 0, _BINS - 1)
    return bins, stated.ravel(), true.ravel(), mass
