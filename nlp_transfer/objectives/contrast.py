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

    With :math:`s_{ij}` the probability that i and j have the same label (0 or 1 unless labels are soft):

    - pairs: :math:`\ell_i = \frac12 \sum_{j \ne i} \left[ \frac{s_{ij}}{\sum_k s_{ik}} (1 - c_{ij})^2 + \frac{1 -
      s_{ij}}{\sum_k (1 - s_{ik})} c_{ij}^2 \right]`, the loss of SetFit (Tunstall et al. 2022, arXiv 2209.11055). Each
      text is encoded once and meets all others of its pass, so that there is no list of pairs.
    - supcon: :math:`\ell_i = -\sum_{j \ne i} \frac{s_{ij}}{\sum_k s_{ik}} \log \frac{\exp(c_{ij} / \tau)}{\sum_{k \ne
      i} \exp(c_{ik} / \tau)}` (Khosla et al. 2020, arXiv 2004.11362).

    A mean over nothing is 0: of a label of which there is one text, or of the only label. Only texts of one pass meet:
    where a step is divided, by its budget of tokens or among processes, each meets fewer others.

    Shapes: features (examples, width), targets (examples,) or (examples, labels) → (examples,).
    """

    compares = True  # texts with each other: what else is in the pass matters

    def __init__(self, settings: ContrastSettings, task: Task) -> None:
        super().__init__()
        if task.problem != "single_label":
            raise UserError(
                f"objective.contrast compares texts of one label with those of another, which problem type "
                f"{task.problem} does not have; take objective=classify"
            )
        self.weight = settings.weight
        self.kind = settings.kind
        self.temperature = settings.temperature

    def forward(self, outputs: Outputs, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the loss of every example, float32 (examples,)."""
        features, targets = F.normalize(outputs.features.float(), dim=-1), batch["targets"]
        cosines, itself = features @ features.T, torch.eye(len(features), dtype=torch.bool, device=features.device)
        same = targets @ targets.T if targets.dim() == 2 else (targets[:, None] == targets).float()
        others = (1 - same).masked_fill(itself, 0)
        same = same.masked_fill(itself, 0)
        if self.kind == "pairs":
            return (_mean((1 - cosines).square(), same) + _mean(cosines.square(), others)) / 2
        scores = cosines / self.temperature
        # The lowest finite score instead of minus infinity: a text alone in its pass has no other, and no gradient.
        among = scores.masked_fill(itself, torch.finfo(scores.dtype).min).logsumexp(-1, keepdim=True)
        return _mean(among - scores, same)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of each row; zero where all weights are."""
    total = weights.sum(-1)
    return (values * weights).sum(-1) / total.where(total > 0, 1)
