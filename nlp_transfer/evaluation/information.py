"""How much answers tell of texts whose labels nobody knows: each of them sure, and all classes among them."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, softmax, xlogy

from nlp_transfer.data.task import Task
from nlp_transfer.evaluation.intervals import Interval, draws, interval

_RESAMPLES = 200


def information(task: Task, logits: np.ndarray) -> float:
    r"""Return the mutual information of texts and answers, 0 to 1.

    With the probabilities :math:`p_i` of a text, H the entropy and K labels, one of which each text has: :math:`[H(\bar
    p) - \overline{H(p_i)}] / \log K` (Bridle, Heading and MacKay 1991, "Unsupervised classifiers, mutual information
    and phantom targets"; to choose between adaptations: Musgrave, Belongie and Lim 2021, arXiv 2111.15672). With
    several labels a text: the mean of the same for every label, K = 2. It is low where answers waver, and where all are
    alike; sure answers of several classes that are wrong have as much as right ones.

    Args:
        task: not regression, which has no probabilities.
        logits: (texts, outputs).
    """
    return float(_information(task, logits, np.full((len(logits), 1), 1 / len(logits)))[0])


def gain(task: Task, logits: np.ndarray, others: np.ndarray, *, confidence: float, seed: int) -> Interval:
    """Return by how much the first answers tell more than the others of the same texts, by the paired bootstrap."""
    drawn = [
        _information(task, logits, counts / len(logits)) - _information(task, others, counts / len(logits))
        for counts in draws(len(logits), resamples=_RESAMPLES, seed=seed)
    ]
    value = information(task, logits) - information(task, others)
    return interval(value, np.concatenate(drawn), confidence=confidence)


def _information(task: Task, logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return it for each column of weights (texts, resamples), which sum to one."""
    logits = logits.astype(np.float64)
    if task.problem == "multi_label":
        chances = np.stack([expit(logits), expit(-logits)], axis=-1)  # (texts, labels, 2)
    else:
        chances = softmax(logits, axis=-1)[:, None]  # (texts, 1, labels)
    own = -xlogy(chances, chances).sum(-1)  # entropy of each text
    means = np.einsum("tlk,tr->rlk", chances, weights)
    return ((-xlogy(means, means).sum(-1) - weights.T @ own) / np.log(chances.shape[-1])).mean(-1)
