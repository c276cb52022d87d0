"""Distillation below the output layer: features like a teacher's, text by text, or as alike among each other as its."""

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
    distillation (Sun et al. 2019, arXiv 1908.09355), which no unit of either encoder changes. W is the linear map of
    FitNets (Romero et al. 2015, arXiv 1412.6550), which learns beside the model and is no part of it afterwards; where
    both features are equally wide it is left out.

    Shapes: features (examples, width), ``teacher_features`` (examples, width of the teacher) → (examples,).
    """

    def __init__(self, settings: HintSettings, task: Task) -> None:
        super().__init__()
        self.weight, self.lr = settings.weight, settings.lr
        self.map: nn.Module = nn.Identity()

    def setup(self, width: int, teacher_width: int) -> None:
        """Make the map between features so wide; its weights are drawn from the global random state."""
        if width != teacher_width:
            self.map = nn.Linear(width, teacher_width, bias=False)

    def forward(self, outputs: Outputs, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the loss of every example, float32 (examples,)."""
        with torch.autocast(outputs.features.device.type, enabled=False):
            own = F.normalize(self.map(outputs.features.float()), dim=-1)
            return (own - F.normalize(batch["teacher_features"], dim=-1)).square().sum(-1)


class Relations(nn.Module):
    r"""Difference between how alike the texts of a forward pass are to a teacher and to the model.

    With :math:`c_{ij}` the cosine of the features of two texts, :math:`t_{ij}` that of the teacher's and :math:`w_j`
    the weights of examples: :math:`\ell_i = \frac{\sum_{j \ne i} w_j (c_{ij} - t_{ij})^2}{\sum_{j \ne i} w_j}`, of a
    text alone in its pass 0. It is similarity-preserving distillation (Tung and Mori 2019, arXiv 1907.09682) with
    cosines, a kind of relational distillation (Park et al. 2019, arXiv 1904.05068): features may be turned, and need
    not be as wide as the teacher's. Only texts of one pass meet: where a step is divided, by its budget of tokens or
    among processes, each meets fewer others.

    Shapes: features (examples, width), ``teacher_features`` (examples, width of the teacher), ``weights`` (examples,)
    → (examples,).
    """

    def __init__(self, settings: RelationsSettings, task: Task) -> None:
        super().__init__()
        self.weight = settings.weight

    def forward(self, outputs: Outputs, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the loss of every example, float32 (examples,)."""
        with torch.autocast(outputs.features.device.type, enabled=False):
            apart = _cosines(outputs.features.float()) - _cosines(batch["teacher_features"])
            shares = batch["weights"].expand(len(apart), -1)
            shares = shares * (1 - torch.eye(len(apart), device=apart.device))
            total = shares.sum(-1)
            return (apart.square() * shares).sum(-1) / total.where(total > 0, 1)


def _cosines(features: Tensor) -> Tensor:
    """(examples, width) -> (examples, examples)."""
    features = F.normalize(features, dim=-1)
    return features @ features.T
