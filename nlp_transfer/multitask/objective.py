"""The loss of several tasks over one forward pass: each row by that of its own task, on its own slice of the logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nlp_transfer.data.task import Task
from nlp_transfer.encoder.classifier import Outputs
from nlp_transfer.objectives.classify import Classify
from nlp_transfer.objectives.settings import ClassifySettings
from nlp_transfer.strategies import Group

_RATE = 1e-2  # of the learned weights: few numbers, which have to get where they belong within a short training


class Together(nn.Module):
    r"""Loss of a row of task k: that of task k between its slice of the logits and of the targets.

    With ``balance="uncertainty"`` it is :math:`\frac{e^{-s_k}}{c} \ell + \frac{s_k}{2}`, c 2 for regression and else 1
    (Kendall, Gal and Cipolla 2018, arXiv 1705.07115): :math:`s_k`, the logarithm of the task's noise variance, is
    learned and starts at 0. It settles where :math:`e^{s_k}` is twice the mean loss over c, so that a task of large
    losses counts less; how often a task's rows come does not matter to that.

    Shapes: logits (examples, outputs of all tasks), ``targets`` the same, float32, see ``union.dense``, of an ordinal
    task ``Classify.distribution``; ``task`` int64 (examples,) → (examples,).

    Args:
        settings: of the supervised loss.
        tasks: with their class weights.
        slices: the outputs of each.
        balance: none or uncertainty.
    """

    def __init__(
        self, settings: ClassifySettings, tasks: Sequence[Task], slices: Sequence[slice], *, balance: str
    ) -> None:
        super().__init__()
        self.terms = nn.ModuleList(Classify(settings, task) for task in tasks)
        self.slices = list(slices)
        self.log_variances = nn.Parameter(torch.zeros(len(tasks))) if balance == "uncertainty" else None
        halves = torch.tensor([0.5 if task.problem == "regression" else 1.0 for task in tasks])
        self.register_buffer("halves", halves, persistent=False)

    @property
    def groups(self) -> list[Group]:
        """What it learns itself."""
        own = dict(self.named_parameters())
        return [Group("balance", own, _RATE)] if own else []

    def forward(self, outputs: Outputs, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the loss of every example, float32 (examples,)."""
        task, targets = batch["task"], batch["targets"]
        every = []
        for term, own in zip(self.terms, self.slices, strict=True):
            wanted = targets[:, own.start] if term.problem == "regression" else targets[:, own]
            part = Outputs(outputs.logits[:, own], outputs.features)
            every.append(term(part, {"targets": wanted}, progress))
        # Of all tasks for all rows, which costs next to nothing: to pick rows out, a GPU would have to be waited for.
        losses = torch.stack(every, dim=1).gather(1, task[:, None]).squeeze(1)
        if self.log_variances is None:
            return losses
        noise = self.log_variances[task]
        return (-noise).exp() * self.get_buffer("halves")[task] * losses + noise / 2
