"""The supervised loss of each problem type, one value per example."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nlp_transfer.data.task import Task
from nlp_transfer.encoder.classifier import Outputs
from nlp_transfer.errors import UserError
from nlp_transfer.objectives.settings import ClassifySettings


class Classify(nn.Module):
    r"""Loss between logits and targets.

    With logits :math:`z`, targets :math:`y` and K labels:

    - single_label: :math:`\ell = -\sum_c p_c \log \mathrm{softmax}(z)_c`, p the target's distribution (one-hot for a
      hard label), smoothed to :math:`(1 - \epsilon) p + \epsilon / K`.
    - multi_label: :math:`\ell = -\frac{1}{K} \sum_c [\beta_c y_c \log \sigma(z_c) + (1 - y_c) \log \sigma(-z_c)]`, with
      the positive weights :math:`\beta_c` of ``task.class_weights``.
    - ordinal: single_label with :math:`p_c \propto \exp(-s |c - y|)`: near misses cost less than far ones (Díaz and
      Marathe 2019, "Soft Labels for Ordinal Regression", CVPR). The K logits need no special decoding.
    - regression: :math:`\ell = (z - y)^2`, with standardised targets (``head.TargetScale``).

    Shapes: logits (examples, outputs), targets (examples,) or (examples, labels) → (examples,).
    """

    positive_weights: Tensor | None

    def __init__(self, settings: ClassifySettings, task: Task) -> None:
        super().__init__()
        if settings.label_smoothing and task.problem in ("ordinal", "regression"):
            raise UserError(
                f"objective.classify.label_smoothing has no meaning for problem type {task.problem}; set it to 0"
            )
        self.weight = settings.weight
        self.problem = task.problem
        self.smoothing = settings.label_smoothing
        self.sharpness = settings.ordinal_sharpness
        beta = task.class_weights if task.problem == "multi_label" else None
        self.register_buffer("positive_weights", None if beta is None else torch.tensor(beta), persistent=False)

    def forward(self, outputs: Outputs, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the loss of every example, float32 (examples,); 0 without a label."""
        losses = self._losses(outputs.logits.float(), batch["targets"])
        return losses * batch["labelled"] if "labelled" in batch else losses

    def _losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.problem == "regression":
            return (logits.squeeze(-1) - targets) ** 2
        if self.problem == "multi_label":
            targets = targets * (1 - self.smoothing) + self.smoothing / 2
            losses = F.binary_cross_entropy_with_logits(
                logits, targets, pos_weight=self.positive_weights, reduction="none"
            )
            return losses.mean(-1)
        return -(self.distribution(targets, logits.shape[-1]) * logits.log_softmax(-1)).sum(-1)

    def distribution(self, targets: Tensor, labels: int) -> Tensor:
        """Return the target distribution over the labels, float32 (examples, labels)."""
        if self.problem == "ordinal" and targets.dim() == 1:
            distance = (torch.arange(labels, device=targets.device) - targets[:, None]).abs().float()
            return (-self.sharpness * distance).softmax(-1)
        p = F.one_hot(targets, labels).float() if targets.dim() == 1 else targets
        return p * (1 - self.smoothing) + self.smoothing / labels
