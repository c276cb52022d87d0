"""Distillation of features: text by text (hints), or of the similarities between texts (relations)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nlp_transfer.data.task import Task
from nlp_transfer.encoder.classifier import Outputs
from nlp_transfer.objectives.settings import HintSettings, RelationsSettings


class Hint(nn.Module):
    r"""Distance between the directions of features :math:`f` and those of a teacher, :math:`h`.

    :math:`\ell = \| \frac{W f}{\|W f\|} - \frac{h}{\|h\|} \|^2 = 2 - 2 \cos(W f, h)`, the loss of patient knowledge
    distillation (Sun et al. 2019, arXiv 1908.09355), which does not depend on the scale of either encoder. W is the
    linear map of FitNets (Romero et al. 2015, arXiv 1412.6550), which is trained with the model and then discarded; if
    both features have the same width it is left out.

    Shapes: features (examples, width), ``teacher_features`` (examples, width of the teacher) → (examples,).
    """

    def __init__(self, settings: HintSettings, task: Task) -> None:
        super().__init__()
        self.weight, self.lr = settings.weight, settings.lr
        self.map: nn.Module = nn.Identity()

    def setup(self, width: int, teacher_width: int) -> None:
        """Build the map between features of these widths, initialised from the global random generator."""
        if width != teacher_width:
            self.map = nn.Linear(width, teacher_width, bias=False)

    def forward(self, outputs: Outputs, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the loss of every example, float32 (examples,)."""
        with torch.autocast(outputs.features.device.type, enabled=False):
            mapped = F.normalize(self.map(outputs.features.float()), dim=-1)
            return (mapped - F.normalize(batch["teacher_features"], dim=-1)).square().sum(-1)


class Relations(nn.Module):
    r"""Difference between the similarities of texts to the model and to a teacher, within a forward pass.

    With :math:`c_{ij}` the cosine of the features of two texts, :math:`t_{ij}` that of the teacher's and :math:`w_j`
    the weights of examples: :math:`\ell_i = \frac{\sum_{j \ne i} w_j (c_{ij} - t_{ij})^2}{\sum_{j \ne i} w_j}`, 0 for a
    text alone in its pass. This is similarity-preserving distillation (Tung and Mori 2019, arXiv 1907.09682) with
    cosines, a kind of relational distillation (Park et al. 2019, arXiv 1904.05068): features may be rotated, and need
    not have the teacher's width. Only texts of the same pass are compared; if a step is divided, by
    `micro_batch_tokens` or over ranks, each is compared with fewer others.

    Shapes: features (examples, width), ``teacher_features`` (examples, width of the teacher), ``weights`` (examples,)
    → (examples,).
    """

    def __init__(self, settings: RelationsSettings, task: Task) -> None:
        super().__init__()
        self.weight = settings.weight

    def forward(self, outputs: Outputs, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the loss of every example, float32 (examples,)."""
        with torch.autocast(outputs.features.device.type, enabled=False):
            differences = _cosines(outputs.features.float()) - _cosines(batch["teacher_features"])
            weights = batch["weights"].expand(len(differences), -1)
            weights = weights * (1 - torch.eye(len(differences), device=differences.device))
            total = weights.sum(-1)
            return (differences.square() * weights).sum(-1) / total.where(total > 0, 1)


def _cosines(features: Tensor) -> Tensor:
    """Return the cosine similarities of features (examples, width), as (examples, examples)."""
    features = F.normalize(features, dim=-1)
    return features @ features.T
