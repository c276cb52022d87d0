"""Selection of the novelty detector without novel texts: some classes are hidden and take their part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nlp_transfer.evaluation.unknown import (
    DETECTORS,
    MOST_ROWS,
    OF_LOGITS,
    Detector,
    Mahalanobis,
    Moments,
    Neighbours,
    RelativeMahalanobis,
)

_DEFAULTS = ("relative_mahalanobis", "neighbours")  # the first that is affordable, unless another is clearly better
_DISTANCES = ("mahalanobis", "relative_mahalanobis")
_CONFIDENCE = 0.95  # that another detector is better than the default
_GROUPS = 5  # of classes, each hidden once
_MOST_TRAINING_ROWS = 2_000  # on which detectors are compared
_FEWEST_GROUPS = 3  # for a meaningful mean
_MOST_FEATURES = 4096  # above this, a covariance matrix costs too much time and memory
_EPSILON = 1e-9
_STEPS, _PENALTY = 30, 1e-2  # of the output layer fitted in place of the model's


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """Return the probability that an unknown row scores higher than a known one; a tie counts as half."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([known, unknown]))[len(known) :]
    return float((ranks.sum() - len(unknown) * (len(unknown) + 1) / 2) / (len(known) * len(unknown)))


def auroc_interval(area: float, known: int, unknown: int, *, confidence: float) -> tuple[float, float]:
    r"""Return the score-based confidence interval of an AUROC, which never has zero width.

    The bounds are the :math:`a` with :math:`(a - \hat a)^2 = z^2 \, a (1 - a) \, \frac{1 + (n - 1) \left(\frac{1 - a}{2
    - a} + \frac{a}{1 + a}\right)}{n_0 n_1}`, :math:`n` half of all rows: the variance of Hanley and McNeil at the bound
    instead of the estimate (Newcombe 2006, "Confidence Intervals for an Effect Size Measure Based on the Mann-Whitney
    Statistic, Part 2", Statistics in Medicine 25, method 5).

    Args:
        area: the estimate.
        known: the number of known rows.
        unknown: the number of unknown rows.
        confidence: of the interval.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    scale, half = norm.ppf((1 + confidence) / 2) ** 2 / (known * unknown), (known + unknown) / 2

    def excess(bound: float) -> float:
        more = (half - 1) * ((1 - bound) / (2 - bound) + bound / (1 + bound))
        return (area - bound) ** 2 - scale * bound * (1 - bound) * (1 + more)

    inside = min(max(area, _EPSILON), 1 - _EPSILON)
    low = brentq(excess, 0, inside) if area > 0 else 0.0
    high = brentq(excess, inside, 1) if area < 1 else 1.0
    return float(low), float(high)


def hidden_class_aurocs(
    train: np.ndarray, classes: np.ndarray, held: np.ndarray, truth: np.ndarray, *, labels: int, seed: int
) -> dict[str, list[float]]:
    """Return every detector's AUROC for each group of hidden classes; empty if fewer than three groups have rows.

    Detectors are fitted without the training rows of the hidden classes, whose validation rows are the unknown ones.
    Detectors on logits need an output layer that has not seen the hidden classes either. The model's own has learned
    from them what the other classes are not, so that dropping its logits of hidden classes would flatter these
    detectors (energy on TREC: 0.95 instead of 0.77); another layer is therefore fitted, roughly, to the rows of the
    other classes. A fine-tuned encoder has still seen all classes, and hidden classes are closer to the others than
    foreign texts may be: the figures rank detectors, but do not say how well one recognises truly novel texts.

    Args:
        train: (rows, width), features of the training rows.
        classes: int (rows,), the classes of the training rows.
        held: (validation rows, width), features of the validation rows.
        truth: int (validation rows,), the classes of the validation rows.
        labels: the number of classes.
        seed: of the groups, and of the sample if there are more than 2,000 training rows.
    """
    if labels < 3:
        return {}
    rows = sample_rows(len(train), _MOST_TRAINING_ROWS, seed=seed)
    train, classes = train[rows], classes[rows]
    names = [name for name in DETECTORS if train.shape[1] <= _MOST_FEATURES or name in (*OF_LOGITS, "neighbours")]
    aurocs: dict[str, list[float]] = {name: [] for name in names}
    for hidden in np.array_split(np.random.default_rng(seed).permutation(labels), min(_GROUPS, labels)):
        unknown, visible = np.isin(truth, hidden), ~np.isin(classes, hidden)
        if unknown.all() or not unknown.any() or not visible.any():
            continue
        present, numbers = np.unique(classes[visible], return_inverse=True)
        logits = _fresh_logits(train[visible], numbers, held, len(present))
        scores = {
            name: fit_detector(name, train[visible], numbers, labels=len(present), seed=seed).scores(logits, held)
            for name in names
            if name not in _DISTANCES
        }
        if not scores.keys() >= set(names):  # both distances share one covariance, which is computed once
            near, far = RelativeMahalanobis.fit(Moments.of(train[visible], numbers, len(present))).distances(held)
            scores |= dict(zip(_DISTANCES, (near, near - far), strict=True))
        for name in names:
            aurocs[name].append(auroc(scores[name][~unknown], scores[name][unknown]))
    return aurocs if len(aurocs["neighbours"]) >= _FEWEST_GROUPS else {}


def choose_detector(aurocs: Mapping[str, Sequence[float]], width: int) -> str:
    """Return the name of the detector to use: the default, unless another was clearly better on hidden classes.

    The best detector replaces the default if its mean advantage over the groups is above zero by Student's t. That
    treats groups as independent and ignores the selection of the best, but stops a few noisy groups from deciding.

    Args:
        aurocs: see `hidden_class_aurocs`.
        width: of the features.
    """
    from scipy.stats import t

    default = next(name for name in _DEFAULTS if width <= _MOST_FEATURES or name == "neighbours")
    if not aurocs:
        return default
    best = max([default, *aurocs], key=lambda name: np.mean(aurocs[name]))
    advantage = np.subtract(aurocs[best], aurocs[default])
    error = float(advantage.std(ddof=1)) / np.sqrt(len(advantage))
    is_better = advantage.mean() > t.ppf((1 + _CONFIDENCE) / 2, len(advantage) - 1) * error
    return best if is_better else default


def fit_detector(name: str, train: np.ndarray, classes: np.ndarray, *, labels: int, seed: int) -> Detector:
    """Fit a detector by its name to rows of all classes; for the arguments see `hidden_class_aurocs`."""
    if name == "neighbours":
        return Neighbours.fit(train[sample_rows(len(train), MOST_ROWS, seed=seed)])
    if name in OF_LOGITS:
        return DETECTORS[name].of({})
    detector = Mahalanobis if name == "mahalanobis" else RelativeMahalanobis
    return detector.fit(Moments.of(train, classes, labels))


def sample_rows(rows: int, most: int, *, seed: int) -> np.ndarray:
    """Return the indices of all rows, or of a random sample of `most` of them, in ascending order."""
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).permutation(rows)[:most])


def _fresh_logits(train: np.ndarray, classes: np.ndarray, held: np.ndarray, labels: int) -> np.ndarray:
    """Fit a softmax layer by a few L-BFGS steps from zero; return its logits, (validation rows, labels)."""
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    centre = train.mean(axis=0)
    scale = float(np.sqrt(np.square(train - centre).mean())) or 1.0
    x, rows = ((train - centre) / scale).astype(np.float32), np.arange(len(train))

    def cost(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight, bias = flat[labels:].reshape(labels, -1), flat[:labels]
        log_probabilities = log_softmax((x @ weight.T.astype(np.float32)).astype(np.float64) + bias, axis=1)
        loss = _PENALTY / 2 * np.square(weight).sum() - log_probabilities[rows, classes].mean()
        residuals = np.exp(log_probabilities)
        residuals[rows, classes] -= 1
        residuals /= len(x)
        gradient = residuals.T.astype(np.float32) @ x + _PENALTY * weight
        return float(loss), np.concatenate([residuals.sum(axis=0), gradient.ravel()])

    start = np.zeros(labels * (x.shape[1] + 1))
    flat = minimize(cost, start, jac=True, method="L-BFGS-B", options={"maxiter": _STEPS}).x
    return ((held - centre) / scale) @ flat[labels:].reshape(labels, -1).T + flat[:labels]
