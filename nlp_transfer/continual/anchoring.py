"""Initialisation of the anchor term (L2-SP, EWC): its reference weights and their Fisher information."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nlp_transfer.data.batches import collate
from nlp_transfer.data.streams import Stream, generator
from nlp_transfer.encoder.classifier import forward
from nlp_transfer.objectives.anchor import Anchor
from nlp_transfer.running.prepared import Prepared
from nlp_transfer.training.inference import to_device


def set_anchor(prepared: Prepared) -> None:
    """Set the anchor term's reference weights, if the run has such a term, to the weights before the first step.

    A resumed training must call this too, before it loads its checkpoint: the reference is the base model.
    """
    for term in prepared.objective.terms.values():
        if isinstance(term, Anchor):
            term.hold(fisher(prepared, term) if term.kind == "ewc" else None)


def fisher(prepared: Prepared, anchor: Anchor) -> list[Tensor]:
    r"""Return the diagonal Fisher information of the anchored weights, scaled to mean 1.

    :math:`F_j = \frac1n \sum_{i=1}^n \left(\frac{\partial}{\partial \theta_j} \log p(y_i \mid x_i)\right)^2` over the
    replayed rows, one at a time, with labels sampled from the model's predictions, as the definition demands. With the
    true labels, which a good model is sure of, it would nearly vanish (van de Ven 2025, arXiv 2502.11756). Only the
    outputs of known labels count.
    """
    model, columns = prepared.classifier.model, prepared.training_columns()
    known, is_multi_label = prepared.classifier.known, prepared.corpus.task.problem == "multi_label"
    random = generator(prepared.settings.seed, 0, Stream.HELD_LABELS)
    end = columns.labelled_rows
    held, information = anchor.held, [torch.zeros_like(value) for value in anchor.held.values()]
    model.eval()
    for row in range(end - prepared.corpus.replayed, end):
        batch = to_device(collate(columns, np.array([row]), padding=prepared.padding), prepared.accelerator.device)
        if "states" in batch:  # outputs of frozen layers, in bfloat16 if steps run on a copy; this model is float32
            batch["states"] = batch["states"].float()
        logits = forward(model, batch).logits[:, :known].float()
        if is_multi_label:
            probabilities = logits.detach().double().sigmoid().cpu().numpy()
            labels = torch.from_numpy(random.random(probabilities.shape) < probabilities).to(logits)
            loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        else:
            cumulative = logits.detach().double().softmax(-1).cumsum(-1).cpu().numpy()
            label = min(int((cumulative[0] < random.random()).sum()), known - 1)
            loss = -logits.log_softmax(-1)[0, label]
        gradients = torch.autograd.grad(loss, held.parameters, materialize_grads=True)
        for total, gradient in zip(information, gradients, strict=True):
            total.add_(gradient[: len(total)].square())
    total = torch.stack([each.double().sum() for each in information]).sum()
    mean = total / sum(each.numel() for each in information)
    return [each.div_(float(mean) or 1.0) for each in information]
