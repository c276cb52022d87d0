"""Confusion of classes: what a model answers in the target domain should not waver between the same two of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nlp_transfer.data.task import Task
from nlp_transfer.encoder.classifier import Outputs
from nlp_transfer.errors import UserError
from nlp_transfer.objectives.domains import several, sides, strength
from nlp_transfer.objectives.settings import MccSettings

_LEAST = 1e-12  # of a class's probabilities in all, below which it counts for less


class Mcc(nn.Module):
    r"""Minimum class confusion on the texts of the target domain alone (Jin et al. 2020, arXiv 1912.03699).

    With :math:`g_i = \mathrm{softmax}(z_i / T)` for the logits :math:`z_i` of a text of the target domain, H the
    entropy, and :math:`v_i = w_i (1 + \exp(-H(g_i)))` its weight, the surer the more and without gradient: the
    confusions :math:`C_{jk} = \sum_i v_i g_{ij} g_{ik}`, each class's as shares of :math:`\sum_k C_{jk}`, of which
    :math:`\ell = \frac1K \sum_j \sum_{k \ne j} C_{jk} / \sum_{k'} C_{jk'}` lie off the diagonal. As shares are taken,
    the sum of the :math:`v_i` does not matter.

    :math:`\ell` counts :math:`\frac{2}{1 + \exp(-10 p)} - 1` times at progress p (Ganin et al. 2016, arXiv 1505.07818),
    so that classes which are not learned yet are not settled by it.

    The value stands for every example of a forward pass, so that the mean over a step is the mean of its passes: where
    a step is divided, each has the confusions of fewer texts. Zero where fewer than two texts of the target domain
    weigh anything.

    Shapes: logits (examples, classes), ``weights`` and ``labelled`` (examples,) → (examples,).
    """

    def __init__(self, settings: MccSettings, task: Task) -> None:
        super().__init__()
        if task.problem != "single_label":
            raise UserError(
                f"objective.mcc knows classes that exclude each other and have no order, and problem type "
                f"{task.problem} is not of that kind; take objective=dann"
            )
        self.weight = settings.weight
        self.temperature = settings.temperature

    @torch.compiler.disable  # it would take a progress for a constant, and compile every step anew
    def forward(self, outputs: Outputs, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the share of confusions for every example, float32 (examples,)."""
        with torch.autocast(outputs.logits.device.type, enabled=False):
            _, target = sides(batch)
            logs = (outputs.logits.float() / self.temperature).log_softmax(-1)
            chances = logs.exp()
            entropy = -(chances * logs).sum(-1)
            sure = target * (1 + (-entropy.detach()).exp())
            confusions = chances.T @ (sure[:, None] * chances)
            shares = confusions / confusions.sum(1, keepdim=True).clamp(min=_LEAST)
            confused = (shares.sum() - shares.trace()) / len(shares)
            return (strength(progress) * confused * several(target)).expand(len(chances))
