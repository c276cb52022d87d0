"""Where the outputs of new labels start in an output layer that knows others: at the means of their classes."""

from __future__ import annotations

import numpy as np
import torch

from nlp_transfer.data.task import dense
from nlp_transfer.encoder.anatomy import active_output
from nlp_transfer.running.preparation import Prepared


def start_new_outputs(prepared: Prepared) -> None:
    """Give the outputs of labels that the model did not know weights, and leave those of the others alone."""
    known, task = prepared.classifier.known, prepared.corpus.task
    if known == task.outputs:
        return
    train = prepared.corpus.splits["train"]
    shares = dense(task, train.targets, np.float64)
    layer = active_output(prepared.classifier.model)
    weight, bias = layer.weight, layer.bias
    before = weight[:known].detach().cpu().double().numpy()
    offset = np.zeros(known) if bias is None else bias[:known].detach().cpu().double().numpy()
    features = prepared.features("train").astype(np.float64)
    new, biases = imprinted(features, shares[:, known:] * train.weights[:, None], before, offset)
    with torch.no_grad():
        weight[known:] = torch.from_numpy(new)
        if bias is not None:
            bias[known:] = torch.from_numpy(biases)


def imprinted(
    features: np.ndarray, shares: np.ndarray, known: np.ndarray, offset: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    r"""Return weights (labels, width) and biases (labels,) of new outputs.

    :math:`w_c = a \frac{\mu_c - m}{\|\mu_c - m\|}`, :math:`\mu_c` the mean of the features with the label, m the mean
    of all these means, a the mean length of the known weights: imprinted weights (Qi, Brown and Lowe 2018, arXiv
    1712.07136), but seen from m, for features have much in common. The bias is such that a text at m gets what the
    known outputs give it on average, so that new labels are neither chosen nor shut out by what all texts share.
    Solving them instead, on rows of which none has a known label, would have them win everywhere.

    Args:
        features: float64 (rows, width).
        shares: float64 (rows, new labels), how much each row counts for each.
        known: float64 (known labels, width), weights.
        offset: float64 (known labels,), biases.
    """
    mass = shares.sum(axis=0)[:, None]
    means = np.divide(shares.T @ features, mass, out=np.zeros((shares.shape[1], features.shape[1])), where=mass > 0)
    centre = means[mass[:, 0] > 0].mean(axis=0) if mass.any() else np.zeros(features.shape[1])
    apart = np.where(mass > 0, means - centre, 0.0)
    length = np.linalg.norm(apart, axis=1, keepdims=True)
    weights = np.linalg.norm(known, axis=1).mean() * np.divide(
        apart, length, out=np.zeros_like(apart), where=length > 0
    )
    return weights, (known @ centre + offset).mean() - weights @ centre
