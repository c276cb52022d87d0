"""What an anchor holds on to, taken when a training begins: the weights, and what each matters to replayed rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nlp_transfer.data.batches import collate
from nlp_transfer.data.streams import Stream, generator
from nlp_transfer.encoder.classifier import forward
from nlp_transfer.objectives.anchor import Anchor
from nlp_transfer.running.preparation import Prepared
from nlp_transfer.training.inference import to_device


def hold(prepared: Prepared) -> None:
    """Let the anchor of a run, if it has one, take the weights for those to stay at, as they are before the first step.

    A training that goes on calls it as well, before it takes its own weights back: what is held comes from the model
    that was gone on from, so that it is the same again.
    """
    for term in prepared.objective.terms.values():
        if isinstance(term, Anchor):
            term.hold(fisher(prepared, term) if term.kind == "ewc" else None)


def fisher(prepared: Prepared, anchor: Anchor) -> list[Tensor]:
    r"""Return the diagonal of the Fisher information for what the anchor holds, divided by its mean over just that.

    :math:`F_j = \frac1n \sum_{i=1}^n \left(\frac{\partial}{\partial \theta_j} \log p(y_i \mid x_i)\right)^2` over the
    replayed rows, one at a time, with labels drawn from what the model says of them, as the information is defined
    (with the true ones, of which a good model is sure, it would be next to nothing; van de Ven 2025, arXiv 2502.11756).
    Of the outputs those of known labels count alone.
    """
    model, columns = prepared.classifier.model, prepared.training_columns()
    known, several = prepared.classifier.known, prepared.corpus.task.problem == "multi_label"
    random = generator(prepared.settings.seed, 0, Stream.HELD_LABELS)
    last = columns.labelled_rows
    held, sums = anchor.held, [torch.zeros_like(value) for value in anchor.held.values()]
    model.eval()
    for row in range(last - prepared.corpus.replayed, last):
        batch = to_device(collate(columns, np.array([row]), padding=prepared.padding), prepared.accelerator.device)
        if "states" in batch:  # what frozen layers gave, in bfloat16 where steps run in a copy; this model is float32
            batch["states"] = batch["states"].float()
        logits = forward(model, batch).logits[:, :known].float()
        if several:
            chances = logits.detach().double().sigmoid().cpu().numpy()
            drawn = torch.from_numpy(random.random(chances.shape) < chances).to(logits)
            loss = F.binary_cross_entropy_with_logits(logits, drawn, reduction="sum")
        else:
            summed = logits.detach().double().softmax(-1).cumsum(-1).cpu().numpy()
            label = min(int((summed[0] < random.random()).sum()), known - 1)
            loss = -logits.log_softmax(-1)[0, label]
        slopes = torch.autograd.grad(loss, held.parameters, materialize_grads=True)
        for total, slope in zip(sums, slopes, strict=True):
            total.add_(slope[: len(total)].square())
    whole = torch.stack([total.double().sum() for total in sums]).sum() / sum(total.numel() for total in sums)
    return [total.div_(float(whole) or 1.0) for total in sums]
