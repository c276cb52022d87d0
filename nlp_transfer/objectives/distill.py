"""Distillation of a teacher's logits, beside labels, or without them for unlabelled texts."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from nlp_transfer.data.task import Task
from nlp_transfer.encoder.classifier import Outputs
from nlp_transfer.objectives.settings import DistillSettings


class Distill(nn.Module):
    r"""Loss between logits :math:`z` and those of a teacher, :math:`t`, at a temperature :math:`T`.

    - single_label and ordinal: :math:`\ell = T^2 \, \mathrm{KL}(\mathrm{softmax}(t / T) \,\|\, \mathrm{softmax}(z /
      T))` (Hinton, Vinyals and Dean 2015, arXiv 1503.02531): its gradient keeps its size as T rises.
    - multi_label: :math:`\ell = \frac{T^2}{K} \sum_c \mathrm{KL}(\sigma(t_c / T) \,\|\, \sigma(z_c / T))`, each of the
      K labels by itself.
    - regression: :math:`\ell = (z - t)^2`.

    If the teacher knows only the first labels, the others are left out of z. With the model from which a run continues
    as the teacher, this is learning without forgetting (Li and Hoiem 2016, arXiv 1606.09282); on replayed rows, dark
    experience replay (Buzzega et al. 2020, arXiv 2004.07211).

    Shapes: logits (examples, outputs), ``teacher`` (examples, outputs of the teacher) → (examples,).
    """

    def __init__(self, settings: DistillSettings, task: Task) -> None:
        super().__init__()
        self.weight = settings.weight
        self.temperature = settings.temperature
        self.problem = task.problem

    def forward(self, outputs: Outputs, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the loss of every example, float32 (examples,)."""
        teacher = batch["teacher"]
        logits = outputs.logits[:, : teacher.shape[1]].float()
        if self.problem == "regression":
            return (logits - teacher).square().squeeze(-1)
        student, teacher = logits / self.temperature, teacher / self.temperature
        if self.problem == "multi_label":
            probabilities = teacher.sigmoid()
            cross = F.binary_cross_entropy_with_logits(student, probabilities, reduction="none")
            entropy = F.binary_cross_entropy_with_logits(teacher, probabilities, reduction="none")
            return self.temperature**2 * (cross - entropy).mean(-1)
        teacher = teacher.log_softmax(-1)
        return self.temperature**2 * (teacher.exp() * (teacher - student.log_softmax(-1))).sum(-1)
