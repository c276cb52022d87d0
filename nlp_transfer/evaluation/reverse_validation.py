"""Reverse validation: whether predictions for unlabelled target texts lead back to the known source labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nlp_transfer.data.task import Task, dense, likeliest
from nlp_transfer.evaluation.decisions import decide
from nlp_transfer.evaluation.intervals import Bootstrap, Interval
from nlp_transfer.linear.convex import fit_head

_RESAMPLES = 200


@dataclass(frozen=True)
class DomainFeatures:
    """Features of labelled source rows and unlabelled target texts, all from one encoder.

    Attributes:
        source: features of the source rows, (rows, width).
        targets: labels of the source rows, see ``Task.encode``.
        target: features of the target texts, (texts, width).
    """

    source: np.ndarray
    targets: np.ndarray
    target: np.ndarray


def reverse_accuracy(task: Task, logits: np.ndarray, features: DomainFeatures, *, seed: int) -> np.ndarray:
    """Return the share of right labels for each source row, float64 (rows,).

    A linear classifier is trained on the predictions for the target texts as if they were labels, and tested on the
    labelled source rows (Zhong et al. 2010, "Cross validation framework to choose amongst models and datasets for
    transfer learning"; Ganin et al. 2016, arXiv 1505.07818, section 5.1.1). Predictions that follow something else than
    the classes do not lead back to them, however confident they are.

    Args:
        task: not regression.
        logits: of the target texts, (texts, outputs).
        features: from the encoder before adaptation, which may otherwise have made both domains look alike.
        seed: of the folds by which the classifier's penalty is chosen.
    """
    predictions = decide(task, logits)
    is_multi_label = task.problem == "multi_label"
    pseudo_labels = dense(task, predictions)
    head = fit_head(
        features.target,
        pseudo_labels,
        np.ones(len(pseudo_labels), np.float32),
        loss="sigmoid" if is_multi_label else "softmax",
        strata=None if is_multi_label else predictions,
        seed=seed,
    )
    outputs = features.source @ head.weight.T + head.bias
    if is_multi_label:
        return ((outputs > 0) == (features.targets > 0)).mean(1)
    return (outputs.argmax(1) == likeliest(features.targets)).astype(np.float64)


def difference(first: np.ndarray, second: np.ndarray, *, confidence: float, seed: int) -> Interval:
    """Return the mean of `first` less that of `second`, see `reverse_accuracy`, with a paired bootstrap interval."""
    gaps = first - second
    bootstrap = Bootstrap(_RESAMPLES, seed, confidence)
    drawn = [gaps @ counts / len(gaps) for counts in bootstrap.draws(len(gaps))]
    return bootstrap.interval(float(gaps.mean()), np.concatenate(drawn))
