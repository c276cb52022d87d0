"""What is minimised: a weighted sum of terms over one shared forward pass; it knows no optimizer and no strategy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from nlp_transfer.data.task import Task
from nlp_transfer.encoder.classifier import Outputs, forward
from nlp_transfer.objectives.classify import Classify
from nlp_transfer.objectives.contrast import Contrast
from nlp_transfer.objectives.distill import Distill
from nlp_transfer.objectives.settings import ClassifySettings, ContrastSettings, DistillSettings

# A term is made of (settings, task), has a `weight`, and maps (outputs, batch, progress) to one loss an example.
TERMS: dict[type, type[nn.Module]] = {ClassifySettings: Classify, ContrastSettings: Contrast, DistillSettings: Distill}


class Objective(nn.Module):
    """A weighted sum of terms, named as in the configuration."""

    def __init__(self, settings: Mapping[str, Any], task: Task) -> None:
        super().__init__()
        # The supervised loss reaches the head, which is there in any case, even where it counts nothing.
        counted = {name: knobs for name, knobs in settings.items() if knobs.weight or name == "classify"}
        self.terms = nn.ModuleDict({name: TERMS[type(knobs)](knobs, task) for name, knobs in counted.items()})

    def forward(self, outputs: Outputs, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the weighted sum of the terms for every example, (examples,)."""
        losses = [cast(float, term.weight) * term(outputs, batch, progress) for term in self.terms.values()]
        return sum(losses[1:], losses[0])


class Step(nn.Module):
    """Model and objective in one: the one module given to ``accelerator.prepare``.

    A term's own parameters must be inside the wrapped module, or ranks would train them apart.
    """

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return this batch's share Σ wᵢ·ℓᵢ of the step's loss, a scalar; the loop divides by the step's Σ wᵢ."""
        return (batch["weights"] * self.objective(forward(self.model, batch), batch, progress)).sum()
