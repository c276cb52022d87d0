"""Which score tells the unknown best, found without one unknown row: classes are hidden and play that part."""

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

_USUAL = ("relative_mahalanobis", "neighbours")  # the first that can be had, unless another is surely better
_DISTANCES = ("mahalanobis", "relative_mahalanobis")
_SURE = 0.95  # how sure that must be
_GROUPS = 5  # of classes, each hidden once
_TAUGHT = 2_000  # training rows on which the scores are compared
_FEWEST = 3  # groups whose mean says anything
_WIDEST = 4096  # of features, up to which a covariance of them is worth its time and room
_NEARLY = 1e-9  # nothing
_STEPS, _PENALTY = 30, 1e-2  # of the output layer that stands in for the model's


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """Return how likely an unknown row has a higher score than a known one, a tie counted as half."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([known, unknown]))[len(known) :]
    return float((ranks.sum() - len(unknown) * (len(unknown) + 1) / 2) / (len(known) * len(unknown)))


def auroc_interval(area: float, known: int, unknown: int, *, confidence: float) -> tuple[float, float]:
    r"""Return the interval of an AUROC that so many rows of either kind gave: score-based, so never of no width.

    The ends :math:`a` have :math:`(a - \hat a)^2 = z^2 \, a (1 - a) \, \frac{1 + (n - 1) \left(\frac{1 - a}{2 - a} +
    \frac{a}{1 + a}\right)}{n_0 n_1}` with :math:`n` half of all rows: the variance of Hanley and McNeil at the end
    instead of the estimate (Newcombe 2006, "Confidence Intervals for an Effect Size Measure Based on the Mann-Whitney
    Statistic, Part 2", Statistics in Medicine 25, method 5).
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    reach, half = norm.ppf((1 + confidence) / 2) ** 2 / (known * unknown), (known + unknown) / 2

    def beyond(end: float) -> float:
        more = (half - 1) * ((1 - end) / (2 - end) + end / (1 + end))
        return (area - end) ** 2 - reach * end * (1 - end) * (1 + more)

    inside = min(max(area, _NEARLY), 1 - _NEARLY)
    low = brentq(beyond, 0, inside) if area > 0 else 0.0
    high = brentq(beyond, inside, 1) if area < 1 else 1.0
    return float(low), float(high)


def rehearsed(
    train: np.ndarray, classes: np.ndarray, held: np.ndarray, truth: np.ndarray, *, labels: int, seed: int
) -> dict[str, list[float]]:
    """Return the AUROC of every score for each group of hidden classes; none where fewer than three have any rows.

    For a score no training row of a hidden class exists, and its validation rows are the unknown. No output layer has
    seen them either: the model's own has learned from them what the other classes are not, so that leaving out its
    logits of the hidden classes would flatter the scores of logits (energy on TREC: 0.95 instead of 0.77). Another one
    is fitted to the rows of the others, roughly. An encoder that was trained has seen all classes, all the same; the
    figures tell which score is better, not how good it is on what is new. And hidden classes are near the others, where
    foreign texts may be far.

    Args:
        train: (rows, width), features of the training rows.
        classes: int (rows,), theirs.
        held: (validation rows, width).
        truth: int (validation rows,).
        labels: how many classes there are.
        seed: of the groups, and of the rows where there are more than 2,000.
    """
    if labels < 3:
        return {}
    rows = some_rows(len(train), _TAUGHT, seed=seed)
    train, classes = train[rows], classes[rows]
    fitting = [name for name in DETECTORS if train.shape[1] <= _WIDEST or name in (*OF_LOGITS, "neighbours")]
    found: dict[str, list[float]] = {name: [] for name in fitting}
    for hidden in np.array_split(np.random.default_rng(seed).permutation(labels), min(_GROUPS, labels)):
        unknown, taught = np.isin(truth, hidden), ~np.isin(classes, hidden)
        if unknown.all() or not unknown.any() or not taught.any():
            continue
        there, shown = np.unique(classes[taught], return_inverse=True)
        logits = _stand_in(train[taught], shown, held, len(there))
        scores = {
            name: fitted(name, train[taught], shown, labels=len(there), seed=seed).scores(logits, held)
            for name in fitting
            if name not in _DISTANCES
        }
        if not scores.keys() >= set(fitting):  # the two have one covariance within the classes
            near, far = RelativeMahalanobis.fit(Moments.of(train[taught], shown, len(there))).distances(held)
            scores |= dict(zip(_DISTANCES, (near, near - far), strict=True))
        for name in fitting:
            found[name].append(auroc(scores[name][~unknown], scores[name][unknown]))
    return found if len(found["neighbours"]) >= _FEWEST else {}


def chosen_score(figures: Mapping[str, Sequence[float]], width: int) -> str:
    """Return the score to take: the usual one, unless another told the hidden classes clearly better.

    The best score counts as better where the mean of its advantage over the groups is above zero by Student's t, as if
    they were independent and no other score had been looked at: of a few groups the first is soon another one.

    Args:
        figures: what `rehearsed` found.
        width: of the features.
    """
    from scipy.stats import t

    usual = next(name for name in _USUAL if width <= _WIDEST or name == "neighbours")
    if not figures:
        return usual
    best = max([usual, *figures], key=lambda name: np.mean(figures[name]))
    ahead = np.subtract(figures[best], figures[usual])
    error = float(ahead.std(ddof=1)) / np.sqrt(len(ahead))
    return best if ahead.mean() > t.ppf((1 + _SURE) / 2, len(ahead) - 1) * error else usual


def fitted(name: str, train: np.ndarray, classes: np.ndarray, *, labels: int, seed: int) -> Detector:
    """Return a score by its name, for rows of all classes; for the arguments see `rehearsed`."""
    if name == "neighbours":
        return Neighbours.fit(train[some_rows(len(train), MOST_ROWS, seed=seed)])
    if name in OF_LOGITS:
        return DETECTORS[name].of({})
    kind = Mahalanobis if name == "mahalanobis" else RelativeMahalanobis
    return kind.fit(Moments.of(train, classes, labels))


def some_rows(rows: int, most: int, *, seed: int) -> np.ndarray:
    """Return which rows are taken: all, or as many as may be, drawn by the seed, in their order."""
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).permutation(rows)[:most])


def _stand_in(train: np.ndarray, classes: np.ndarray, held: np.ndarray, labels: int) -> np.ndarray:
    """Return the logits, (validation rows, labels), of a softmax layer after a few steps of L-BFGS from zero."""
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    centre = train.mean(axis=0)
    scale = float(np.sqrt(np.square(train - centre).mean())) or 1.0
    x, rows = ((train - centre) / scale).astype(np.float32), np.arange(len(train))

    def cost(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight, bias = flat[labels:].reshape(labels, -1), flat[:labels]
        likely = log_softmax((x @ weight.T.astype(np.float32)).astype(np.float64) + bias, axis=1)
        loss = _PENALTY / 2 * np.square(weight).sum() - likely[rows, classes].mean()
        surplus = np.exp(likely)
        surplus[rows, classes] -= 1
        surplus /= len(x)
        slope = surplus.T.astype(np.float32) @ x + _PENALTY * weight
        return float(loss), np.concatenate([surplus.sum(axis=0), slope.ravel()])

    start = np.zeros(labels * (x.shape[1] + 1))
    flat = minimize(cost, start, jac=True, method="L-BFGS-B", options={"maxiter": _STEPS}).x
    return ((held - centre) / scale) @ flat[labels:].reshape(labels, -1).T + flat[:labels]
