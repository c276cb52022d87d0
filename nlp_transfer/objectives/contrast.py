"""Supervised contrastive terms: texts of one class are drawn together, texts of others apart, within a forward pass."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nlp_transfer.data.task import Task
from nlp_transfer.encoder.classifier import Outputs
from nlp_transfer.errors import UserError
from nlp_transfer.objectives.settings import ContrastSettings


class Contrast(nn.Module):
    r"""Loss of the cosines :math:`c_{ij}` between the features of the texts of a forward pass.

    With :math:`p_{ij}` the probability that i and j have the same label (0 or 1 unless labels are soft), :math:`w_j`
    the weights of examples, :math:`s_{ij} = w_j p_{ij}` and :math:`o_{ij} = w_j (1 - p_{ij})`, all sums over the
    others than i:

    - pairs: :math:`\ell_i = \frac12 \left[ \frac{\sum_j s_{ij} (1 - c_{ij})^2}{\sum_j s_{ij}} + \frac{\sum_j o_{ij}
      c_{ij}^2}{\sum_j o_{ij}} \right]`, the loss of SetFit (Tunstall et al. 2022, arXiv 2209.11055). Each text is
      encoded once and meets all others of its pass, so that there is no list of pairs.
    - supcon: :math:`\ell_i = -\frac{1}{\sum_j s_{ij}} \sum_j s_{ij} \log \frac{\exp(c_{ij} / \tau)}{\sum_k w_k
      \exp(c_{ik} / \tau)}` (Khosla et al. 2020, arXiv 2004.11362).

    A mean over nothing is 0: of a label of which there is one text, or of the only label. Only texts of one pass meet:
    where a step is divided, by its budget of tokens or among processes, each meets fewer others.

    Shapes: features (examples, width), targets (examples,) or (examples, labels) → (examples,).
    """

    def __init__(self, settings: ContrastSettings, task: Task) -> None:
        super().__init__()
        if task.problem != "single_label":
            raise UserError(
                f"objective.contrast knows labels that are the same or not, and problem type {task.problem} is not "
                "of that kind; take objective=classify"
            )
        self.weight = settings.weight
        self.kind = settings.kind
        self.temperature = settings.temperature

    def forward(self, outputs: Outputs, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the loss of every example, float32 (examples,)."""
        with torch.autocast(outputs.features.device.type, enabled=False):  # cosines near 1 want more than three digits
            weights, labelled = batch["weights"], batch.get("labelled")
            if labelled is None:
                return self._losses(outputs.features.float(), batch["targets"], weights)
            known = weights * (labelled > 0)
            return labelled * self._losses(outputs.features.float(), batch["targets"], known)

    def _losses(self, features: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        features = F.normalize(features, dim=-1)
        cosines, itself = features @ features.T, torch.eye(len(features), dtype=torch.bool, device=features.device)
        same = targets @ targets.T if targets.dim() == 2 else (targets[:, None] == targets).float()
        shares = weights.expand(len(features), -1).masked_fill(itself, 0)  # of j in the loss of i
        same, others = same * shares, (1 - same) * shares
        if self.kind == "pairs":
            return (_mean((1 - cosines).square(), same) + _mean(cosines.square(), others)) / 2
        scores = cosines / self.temperature
        # The lowest finite score instead of minus infinity: a text alone in its pass has no other, and no gradient.
        among = (scores + shares.log()).clamp(min=torch.finfo(scores.dtype).min).logsumexp(-1, keepdim=True)
        return _mean(among - scores, same)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of each row; zero where all weights are."""
    total = weights.sum(-1)
    return (values * weights).sum(-1) / total.where(total > 0, 1)
