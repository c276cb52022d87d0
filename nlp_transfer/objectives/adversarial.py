"""Domains made alike against a discriminator, which learns to tell them apart, and the encoder to prevent that."""

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

_WIDEST = 4096  # of the outer product; beyond it is seen through a random projection
_PROJECTED = 1024


class Dann(nn.Module):
    r"""Loss of a discriminator of domains behind a reversed gradient (Ganin et al. 2016, arXiv 1505.07818).

    :math:`\ell_i = -d_i \log \sigma(D(f_i)) - (1 - d_i) \log \sigma(-D(f_i))`, :math:`d_i` 1 for a text of the source
    and 0 for one of the target domain. D, one hidden layer with ReLU, learns to make it small. The encoder gets its
    gradient times :math:`-\lambda`, with :math:`\lambda = \frac{2}{1 + \exp(-10 p)} - 1` at progress p, so that a
    discriminator that knows nothing yet moves nothing.

    A step has as many texts of either domain, whose halves of the loss count alike. No text hangs on another one, so
    that loss and gradient are the same however a step is divided.

    Shapes: features (examples, width), ``labelled`` (examples,) → (examples,).
    """

    def __init__(self, settings: DannSettings, task: Task) -> None:
        super().__init__()
        self.weight, self.lr = settings.weight, settings.lr
        self.hidden, self.classes = settings.hidden, task.outputs

    def setup(self, width: int) -> None:
        """Build the discriminator of features so wide; its weights are drawn from the global random state."""
        read = self.read_width(width)
        self.discriminator = nn.Sequential(nn.Linear(read, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 1))

    def read_width(self, width: int) -> int:
        """Return how wide what the discriminator reads is, where features are so wide."""
        return width

    @torch.compiler.disable  # it would take a progress for a constant, and compile every step anew
    def forward(self, outputs: Outputs, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the loss of every example, float32 (examples,)."""
        with torch.autocast(outputs.features.device.type, enabled=False):
            features = reversed_gradient(outputs.features.float(), strength(progress))
            return self.losses(features, outputs.logits.float(), (batch["labelled"] > 0).float())

    def losses(self, features: Tensor, logits: Tensor, source: Tensor) -> Tensor:
        """Return the discriminator's loss of every example."""
        told = self.discriminator(features).squeeze(-1)
        return F.binary_cross_entropy_with_logits(told, source, reduction="none")


class Cdan(Dann):
    r"""The same given the model's answers, where it is sure of them (CDAN+E; Long et al. 2018, arXiv 1705.10667).

    The discriminator reads :math:`f_i \otimes g_i`, g the probabilities of the classes, so that a class is made like
    itself in the other domain; where that is wider than 4,096, :math:`\frac{1}{\sqrt{1024}} (R_f f_i) \odot (R_g
    g_i)`, R fixed and normally distributed. The loss of a text counts :math:`1 + \exp(-H(g_i))` times, H the entropy:
    least where the model does not know the class. No gradient flows through g, as in the authors' code through the
    product; the head is taught by labels.

    Shapes: features (examples, width), logits (examples, classes), ``labelled`` (examples,) → (examples,).
    """

    def __init__(self, settings: DannSettings, task: Task) -> None:
        super().__init__(settings, task)
        if task.problem not in ("single_label", "ordinal"):
            raise UserError(
                f"objective.cdan reads the probabilities of one class a text, which problem type {task.problem} does "
                "not have; take objective=dann"
            )

    def setup(self, width: int) -> None:
        """Build the discriminator and, where it needs them, the projections."""
        super().setup(width)
        if width * self.classes > _WIDEST:  # rebuilt from the seed, and so in no checkpoint
            self.register_buffer("of_features", torch.randn(width, _PROJECTED), persistent=False)
            self.register_buffer("of_classes", torch.randn(self.classes, _PROJECTED), persistent=False)

    def read_width(self, width: int) -> int:
        """Return the width of the outer product or of its projection."""
        product = width * self.classes
        return product if product <= _WIDEST else _PROJECTED

    def losses(self, features: Tensor, logits: Tensor, source: Tensor) -> Tensor:
        """Return the loss of every example, the more the surer its class is."""
        logs = logits.detach().log_softmax(-1)
        chances = logs.exp()
        entropy = -(chances * logs).sum(-1)
        return (1 + (-entropy).exp()) * super().losses(self.joint(features, chances), logits, source)

    def joint(self, features: Tensor, chances: Tensor) -> Tensor:
        """Return what the discriminator reads of features (examples, width) and probabilities (examples, classes)."""
        if features.shape[1] * self.classes <= _WIDEST:
            return (chances[:, :, None] * features[:, None, :]).flatten(1)
        of_features, of_classes = self.get_buffer("of_features"), self.get_buffer("of_classes")
        return (features @ of_features) * (chances @ of_classes) / math.sqrt(_PROJECTED)


def reversed_gradient(values: Tensor, strength: float) -> Tensor:
    """Return the values as they are; a gradient flows back times minus `strength`."""
    still = values.detach()
    return still - strength * (values - still)  # of the second part nothing but the gradient is left
