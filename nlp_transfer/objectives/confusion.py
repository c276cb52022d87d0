"""Class confusion: predictions in the target domain should not waver between the same classes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nlp_transfer.data.task import Task
from nlp_transfer.encoder.classifier import Outputs
from nlp_transfer.errors import UserError
from nlp_transfer.objectives.domains import several, sides, strength
from nlp_transfer.objectives.settings import MccSettings

_LEAST = 1e-12  # lower bound of the divisor of a class's confusions


class Mcc(nn.Module):
    r"""Minimum class confusion on the texts of the target domain alone (Jin et al. 2020, arXiv 1912.03699).

    With :math:`g_i = \mathrm{softmax}(z_i / T)` for the logits :math:`z_i` of a text, H the entropy,
    :math:`v_i = w_i (1 + \exp(-H(g_i)))` (without gradient) the weight of a text, larger for certain predictions, and
    the confusions :math:`C_{jk} = \sum_i v_i g_{ij} g_{ik}`, the loss is the mean share of confusions off the diagonal:
    :math:`\ell = \frac1K \sum_j \sum_{k \ne j} C_{jk} / \sum_{k'} C_{jk'}`. The scale of the :math:`v_i` cancels.

    :math:`\ell` is multiplied by :math:`\frac{2}{1 + \exp(-10 p)} - 1` at progress p (Ganin et al. 2016, arXiv
    1505.07818), so that it does not settle classes that are not learned yet.

    All examples of a forward pass have the same value; if a step is divided, its loss is the mean of its passes, each
    with the confusions of fewer texts. Zero if fewer than two texts of the target domain have weight.

    Shapes: logits (examples, classes), ``weights`` and ``labelled`` (examples,) → (examples,).
    """

    def __init__(self, settings: MccSettings, task: Task) -> None:
        super().__init__()
        if task.problem != "single_label":
            raise UserError(
                f"objective.mcc needs classes that exclude each other and have no order, and problem type "
                f"{task.problem} is of another kind; choose objective=dann"
            )
        self.weight = settings.weight
        self.temperature = settings.temperature

    @torch.compiler.disable  # it would treat the progress as a constant, and recompile in every step
    def forward(self, outputs: Outputs, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the share of confusions for every example, float32 (examples,)."""
        with torch.autocast(outputs.logits.device.type, enabled=False):
            _, target = sides(batch)
            logs = (outputs.logits.float() / self.temperature).log_softmax(-1)
            probabilities = logs.exp()
            entropy = -(probabilities * logs).sum(-1)
            certainty = target * (1 + (-entropy.detach()).exp())
            confusions = probabilities.T @ (certainty[:, None] * probabilities)
            shares = confusions / confusions.sum(1, keepdim=True).clamp(min=_LEAST)
            off_diagonal = (shares.sum() - shares.trace()) / len(shares)
            return (strength(progress) * off_diagonal * several(target)).expand(len(probabilities))
