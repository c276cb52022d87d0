"""Supervised contrastive losses over the texts of a forward pass."""

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
    r"""Contrastive loss on the cosine similarities :math:`c_{ij}` of features within a forward pass.

    With :math:`p_{ij}` the probability that i and j have the same label (0 or 1 unless labels are soft), :math:`w_j`
    the weights of examples, :math:`s_{ij} = w_j p_{ij}` and :math:`o_{ij} = w_j (1 - p_{ij})`, all sums without i
    itself:

    - pairs: :math:`\ell_i = \frac12 \left[ \frac{\sum_j s_{ij} (1 - c_{ij})^2}{\sum_j s_{ij}} + \frac{\sum_j o_{ij}
      c_{ij}^2}{\sum_j o_{ij}} \right]`, the loss of SetFit (Tunstall et al. 2022, arXiv 2209.11055). Each text is
      encoded once and compared with all others of its pass, without a list of pairs.
    - supcon: :math:`\ell_i = -\frac{1}{\sum_j s_{ij}} \sum_j s_{ij} \log \frac{\exp(c_{ij} / \tau)}{\sum_k w_k
      \exp(c_{ik} / \tau)}` (Khosla et al. 2020, arXiv 2004.11362).

    A mean over nothing, such as the other texts of a label with one text, is 0. Only texts of the same pass are
    compared; if a step is divided, by `micro_batch_tokens` or over ranks, each is compared with fewer others.

    Shapes: features (examples, width), targets (examples,) or (examples, labels) → (examples,).
    """

    def __init__(self, settings: ContrastSettings, task: Task) -> None:
        super().__init__()
        if task.problem != "single_label":
            raise UserError(
                "objective.contrast needs labels that are either equal or different, and problem type "
                f"{task.problem} is of another kind; choose objective=classify"
            )
        self.weight = settings.weight
        self.kind = settings.kind
        self.temperature = settings.temperature

    def forward(self, outputs: Outputs, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the loss of every example, float32 (examples,)."""
        with torch.autocast(outputs.features.device.type, enabled=False):  # cosines near 1 need more than three digits
            weights, labelled = batch["weights"], batch.get("labelled")
            if labelled is None:
                return self._losses(outputs.features.float(), batch["targets"], weights)
            known = weights * (labelled > 0)
            return labelled * self._losses(outputs.features.float(), batch["targets"], known)

    def _losses(self, features: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        features = F.normalize(features, dim=-1)
        cosines, diagonal = features @ features.T, torch.eye(len(features), dtype=torch.bool, device=features.device)
        same = targets @ targets.T if targets.dim() == 2 else (targets[:, None] == targets).float()
        weights_of_others = weights.expand(len(features), -1).masked_fill(diagonal, 0)  # of j in the loss of i
        same, others = same * weights_of_others, (1 - same) * weights_of_others
        if self.kind == "pairs":
            return (_mean((1 - cosines).square(), same) + _mean(cosines.square(), others)) / 2
        scores = cosines / self.temperature
        # The lowest finite score instead of minus infinity, for a text that is alone in its pass.
        normaliser = (
            (scores + weights_of_others.log()).clamp(min=torch.finfo(scores.dtype).min).logsumexp(-1, keepdim=True)
        )
        return _mean(normaliser - scores, same)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of each row; 0 if all its weights are 0."""
    total = weights.sum(-1)
    return (values * weights).sum(-1) / total.where(total > 0, 1)
