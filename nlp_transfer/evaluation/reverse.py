"""Whether answers to texts whose labels nobody knows lead back to labels that are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nlp_transfer.data.task import Task, dense, likeliest
from nlp_transfer.evaluation.decisions import decide
from nlp_transfer.evaluation.intervals import Interval, draws, interval
from nlp_transfer.linear.convex import fit_head

_RESAMPLES = 200


@dataclass(frozen=True)
class Known:
    """Rows of the source domain and some texts of the target domain, as one and the same encoder sees them.

    Attributes:
        source: features of the rows, (rows, width).
        targets: their labels, see ``Task.encode``.
        target: features of the texts, (texts, width).
    """

    source: np.ndarray
    targets: np.ndarray
    target: np.ndarray


def led_back(task: Task, logits: np.ndarray, known: Known, *, seed: int) -> np.ndarray:
    """Return for each row of the source domain the share of its labels that is right, float64 (rows,).

    A linear classifier learns the answers to the texts of the target domain as if they were labels, and is asked for
    those of the source domain: reverse validation (Zhong et al. 2010, "Cross validation framework to choose amongst
    models and datasets for transfer learning"; Ganin et al. 2016, arXiv 1505.07818, section 5.1.1). Answers that follow
    something else than the classes do not lead back to them, however sure they are.

    Args:
        task: not regression.
        logits: the answers, (texts, outputs).
        known: features that no adaptation has touched, or both domains would look as it wants them to.
        seed: of the folds by which the classifier's penalty is chosen.
    """
    answers = decide(task, logits)
    several = task.problem == "multi_label"
    taught = dense(task, answers)
    head = fit_head(
        known.target,
        taught,
        np.ones(len(taught), np.float32),
        loss="sigmoid" if several else "softmax",
        strata=None if several else answers,
        seed=seed,
    )
    outputs = known.source @ head.weight.T + head.bias
    if several:
        return ((outputs > 0) == (known.targets > 0)).mean(1)
    return (outputs.argmax(1) == likeliest(known.targets)).astype(np.float64)


def difference(one: np.ndarray, other: np.ndarray, *, confidence: float, seed: int) -> Interval:
    """Return by how much the mean of the first, of `led_back`, is above that of the other, by the paired bootstrap."""
    own = one - other
    drawn = [own @ counts / len(own) for counts in draws(len(own), resamples=_RESAMPLES, seed=seed)]
    return interval(float(own.mean()), np.concatenate(drawn), confidence=confidence)
