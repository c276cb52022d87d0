"""Adversarial domain adaptation: a discriminator tells two domains apart, and the encoder learns to prevent it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nlp_transfer.data.task import Task
from nlp_transfer.encoder.classifier import Outputs
from nlp_transfer.errors import UserError
from nlp_transfer.objectives.domains import strength
from nlp_transfer.objectives.settings import DannSettings

_WIDEST = 4096  # width of an outer product; wider ones are randomly projected
_PROJECTED = 1024


class Dann(nn.Module):
    r"""Loss of a domain discriminator behind a gradient reversal layer (DANN; Ganin et al. 2016, arXiv 1505.07818).

    :math:`\ell_i = -d_i \log \sigma(D(f_i)) - (1 - d_i) \log \sigma(-D(f_i))`, :math:`d_i` 1 for a text of the source
    and 0 for one of the target domain. D, with one hidden layer and ReLU, minimises it. The encoder gets its gradient
    times :math:`-\lambda`, with :math:`\lambda = \frac{2}{1 + \exp(-10 p)} - 1` at progress p, so that an untrained
    discriminator has no influence.

    A step has equally many texts of both domains, which on average have equal weights. The loss of a text does not
    depend on other texts, so that loss and gradient are the same however a step is divided into passes.

    Shapes: features (examples, width), ``labelled`` (examples,) → (examples,).
    """

    def __init__(self, settings: DannSettings, task: Task) -> None:
        super().__init__()
        self.weight, self.lr = settings.weight, settings.lr
        self.hidden, self.classes = settings.hidden, task.outputs

    def setup(self, width: int) -> None:
        """Build the discriminator for features of some width, initialised from the global random generator."""
        input_width = self.input_width(width)
        self.discriminator = nn.Sequential(nn.Linear(input_width, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 1))

    def input_width(self, width: int) -> int:
        """Return the width of the discriminator's input for a width of the features."""
        return width

    @torch.compiler.disable  # it would treat the progress as a constant, and recompile in every step
    def forward(self, outputs: Outputs, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the loss of every example, float32 (examples,)."""
        with torch.autocast(outputs.features.device.type, enabled=False):
            features = reversed_gradient(outputs.features.float(), strength(progress))
            return self.losses(features, outputs.logits.float(), (batch["labelled"] > 0).float())

    def losses(self, features: Tensor, logits: Tensor, source: Tensor) -> Tensor:
        """Return the discriminator's loss of every example."""
        logits_of_source = self.discriminator(features).squeeze(-1)
        return F.binary_cross_entropy_with_logits(logits_of_source, source, reduction="none")


class Cdan(Dann):
    r"""The same, conditioned on the predicted classes (CDAN+E; Long et al. 2018, arXiv 1705.10667).

    The discriminator's input is :math:`f_i \otimes g_i`, g the class probabilities, so that each class is aligned with
    the same class in the other domain; if that is wider than 4,096, :math:`\frac{1}{\sqrt{1024}} (R_f f_i) \odot (R_g
    g_i)` with fixed, normally distributed R. The loss of a text is multiplied by :math:`1 + \exp(-H(g_i))`, H the
    entropy, which is least if the prediction is uncertain. No gradient flows through g; the head learns from labels.

    Shapes: features (examples, width), logits (examples, classes), ``labelled`` (examples,) → (examples,).
    """

    def __init__(self, settings: DannSettings, task: Task) -> None:
        super().__init__(settings, task)
        if task.problem not in ("single_label", "ordinal"):
            raise UserError(
                f"objective.cdan reads the probabilities of one class per text, which problem type {task.problem} does "
                "not have; take objective=dann"
            )

    def setup(self, width: int) -> None:
        """Build the discriminator and, if needed, the projections."""
        super().setup(width)
        if width * self.classes > _WIDEST:  # rebuilt from the seed, so that no checkpoint has them
            self.register_buffer("of_features", torch.randn(width, _PROJECTED), persistent=False)
            self.register_buffer("of_classes", torch.randn(self.classes, _PROJECTED), persistent=False)

    def input_width(self, width: int) -> int:
        """Return the width of the outer product or of its projection."""
        product = width * self.classes
        return product if product <= _WIDEST else _PROJECTED

    def losses(self, features: Tensor, logits: Tensor, source: Tensor) -> Tensor:
        """Return the loss of every example, weighted by the certainty of its class."""
        logs = logits.detach().log_softmax(-1)
        probabilities = logs.exp()
        entropy = -(probabilities * logs).sum(-1)
        return (1 + (-entropy).exp()) * super().losses(self.joint(features, probabilities), logits, source)

    def joint(self, features: Tensor, probabilities: Tensor) -> Tensor:
        """Return the discriminator's input for features (examples, width) and probabilities (examples, classes)."""
        if features.shape[1] * self.classes <= _WIDEST:
            return (probabilities[:, :, None] * features[:, None, :]).flatten(1)
        of_features, of_classes = self.get_buffer("of_features"), self.get_buffer("of_classes")
        return (features @ of_features) * (probabilities @ of_classes) / math.sqrt(_PROJECTED)


def reversed_gradient(values: Tensor, strength: float) -> Tensor:
    """Return the values unchanged; their gradient is multiplied by minus `strength`."""
    constant = values.detach()
    return constant - strength * (values - constant)  # the second part is 0, but has a gradient
