"""Initialisation of new labels' outputs in an output layer that already has others, from class means."""

from __future__ import annotations

import numpy as np
import torch

from nlp_transfer.data.task import dense
from nlp_transfer.encoder.anatomy import active_output
from nlp_transfer.running.prepared import Prepared


def start_new_outputs(prepared: Prepared) -> None:
    """Initialise the outputs of labels that the base model does not have; the others keep their weights."""
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
    r"""Return weights (new labels, width) and biases (new labels,) of the new outputs.

    :math:`w_c = a \frac{\mu_c - m}{\|\mu_c - m\|}`, with :math:`\mu_c` the mean feature vector of the label, m the mean
    of these means, and a the mean length of the known weights. These are imprinted weights (Qi, Brown and Lowe 2018,
    arXiv 1712.07136), centred at m because features have much in common. The bias gives a text at m the mean of the
    known outputs, so that what all texts share neither favours nor excludes new labels. Fitted on rows without any
    known label, the new outputs would win everywhere.

    Args:
        features: float64 (rows, width).
        shares: float64 (rows, new labels), the weighted share of each new label in each row.
        known: float64 (known labels, width), the weights of the known outputs.
        offset: float64 (known labels,), the biases of the known outputs.
    """
    mass = shares.sum(axis=0)[:, None]
    means = np.divide(shares.T @ features, mass, out=np.zeros((shares.shape[1], features.shape[1])), where=mass > 0)
    centre = means[mass[:, 0] > 0].mean(axis=0) if mass.any() else np.zeros(features.shape[1])
    centred = np.where(mass > 0, means - centre, 0.0)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    directions = np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)
    weights = np.linalg.norm(known, axis=1).mean() * directions
    return weights, (known @ centre + offset).mean() - weights @ centre
