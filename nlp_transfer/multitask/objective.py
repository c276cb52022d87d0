"""The multitask loss: each row has the loss of its own task, on that task's slice of the logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nlp_transfer.data.task import Task
from nlp_transfer.encoder.classifier import Outputs
from nlp_transfer.objectives.classify import Classify
from nlp_transfer.objectives.settings import ClassifySettings
from nlp_transfer.strategies import Group

_RATE = 1e-2  # of the learned task weights: few parameters, which must converge within a short training


class MultitaskLoss(nn.Module):
    r"""The loss of a row of task k, computed between task k's slices of the logits and of the targets.

    With ``balance="uncertainty"`` it is :math:`\frac{e^{-s_k}}{c} \ell + \frac{s_k}{2}`, c = 2 for regression, else 1
    (Kendall, Gal and Cipolla 2018, arXiv 1705.07115). :math:`s_k`, the log variance of the task's noise, is learned
    and starts at 0. At its optimum :math:`e^{s_k}` is twice the mean loss over c, so that tasks with large losses count
    less, however often their rows are sampled.

    Shapes: logits (examples, outputs of all tasks); ``targets`` the same, float32, from ``task.dense`` or for ordinal
    tasks from ``Classify.distribution``; ``task`` int64 (examples,) → (examples,).

    Args:
        settings: of the supervised loss.
        tasks: with their class weights.
        slices: the outputs of each task.
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
        """The parameter group of the learned task weights, if any."""
        parameters = dict(self.named_parameters())
        return [Group("balance", parameters, _RATE)] if parameters else []

    def forward(self, outputs: Outputs, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the loss of every example, float32 (examples,)."""
        task, targets = batch["task"], batch["targets"]
        # Every task's loss for every row costs next to nothing, whereas selecting rows would synchronise with the GPU.
        losses_by_task = []
        for term, columns in zip(self.terms, self.slices, strict=True):
            task_targets = targets[:, columns.start] if term.problem == "regression" else targets[:, columns]
            task_outputs = Outputs(outputs.logits[:, columns], outputs.features)
            losses_by_task.append(term(task_outputs, {"targets": task_targets}, progress))
        losses = torch.stack(losses_by_task, dim=1).gather(1, task[:, None]).squeeze(1)
        if self.log_variances is None:
            return losses
        noise = self.log_variances[task]
        return (-noise).exp() * self.get_buffer("halves")[task] * losses + noise / 2
