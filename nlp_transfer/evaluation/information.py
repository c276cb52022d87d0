"""Mutual information of texts and predictions: how confident and how varied predictions are, without labels."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, softmax, xlogy

from nlp_transfer.data.task import Task
from nlp_transfer.evaluation.intervals import Bootstrap, Interval

_RESAMPLES = 200


def mutual_information(task: Task, logits: np.ndarray) -> float:
    r"""Return the mutual information of texts and predictions, 0 to 1.

    For one label per text, with the probabilities :math:`p_i` of text i, the entropy H and K labels: :math:`[H(\bar p)
    - \overline{H(p_i)}] / \log K` (Bridle, Heading and MacKay 1991, "Unsupervised classifiers, mutual information and
    phantom targets"; to select domain adaptations: Musgrave, Belongie and Lim 2021, arXiv 2111.15672). For several
    labels per text: the mean over the labels, each with K = 2. It is low where predictions are unsure, and where all
    are the same; confident predictions of several classes score alike whether right or wrong.

    Args:
        task: not regression, which has no probabilities.
        logits: (texts, outputs).
    """
    return float(_information(task, logits, np.full((len(logits), 1), 1 / len(logits)))[0])


def gain(task: Task, logits: np.ndarray, others: np.ndarray, *, confidence: float, seed: int) -> Interval:
    """Return the information of `logits` less that of `others` on the same texts, with a paired bootstrap interval."""
    bootstrap = Bootstrap(_RESAMPLES, seed, confidence)
    drawn = [
        _information(task, logits, counts / len(logits)) - _information(task, others, counts / len(logits))
        for counts in bootstrap.draws(len(logits))
    ]
    value = mutual_information(task, logits) - mutual_information(task, others)
    return bootstrap.interval(value, np.concatenate(drawn))


def _information(task: Task, logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return it for each resample, given weights (texts, resamples) whose columns sum to one."""
    logits = logits.astype(np.float64)
    if task.problem == "multi_label":
        probabilities = np.stack([expit(logits), expit(-logits)], axis=-1)  # (texts, labels, 2)
    else:
        probabilities = softmax(logits, axis=-1)[:, None]  # (texts, 1, labels)
    entropies = -xlogy(probabilities, probabilities).sum(-1)
    means = np.einsum("tlk,tr->rlk", probabilities, weights)
    return ((-xlogy(means, means).sum(-1) - weights.T @ entropies) / np.log(probabilities.shape[-1])).mean(-1)
