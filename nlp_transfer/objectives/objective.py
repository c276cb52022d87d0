"""The objective: a weighted sum of loss terms over one shared forward pass."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from nlp_transfer.data.task import Task
from nlp_transfer.encoder.anatomy import active_output, output_layers
from nlp_transfer.encoder.classifier import Outputs, forward
from nlp_transfer.errors import UserError
from nlp_transfer.objectives.adversarial import Cdan, Dann
from nlp_transfer.objectives.anchor import Anchor
from nlp_transfer.objectives.classify import Classify
from nlp_transfer.objectives.confusion import Mcc
from nlp_transfer.objectives.contrast import Contrast
from nlp_transfer.objectives.distill import Distill
from nlp_transfer.objectives.hints import Hint, Relations
from nlp_transfer.objectives.moments import Coral, Mmd
from nlp_transfer.objectives.settings import terms_that
from nlp_transfer.strategies import Group

# By name, as in `settings.TERM_SETTINGS`. A term is made from (settings, task), has a `weight`, and maps (outputs,
# batch, progress) to one loss per example. A term with parameters has their learning rate `lr`, and creates them in
# `setup`, given the width of the features.
TERMS: dict[str, type[nn.Module]] = {
    "classify": Classify,
    "contrast": Contrast,
    "distill": Distill,
    "anchor": Anchor,
    "hint": Hint,
    "relations": Relations,
    "coral": Coral,
    "mmd": Mmd,
    "dann": Dann,
    "cdan": Cdan,
    "mcc": Mcc,
}


class Objective(nn.Module):
    """A weighted sum of terms, named as in the configuration."""

    def __init__(self, settings: Mapping[str, Any], task: Task) -> None:
        super().__init__()
        # The supervised loss is included even with weight 0, so that the head is part of the graph.
        used = {name: term for name, term in settings.items() if term.weight or name == "classify"}
        self.terms = nn.ModuleDict({name: TERMS[name](term, task) for name, term in used.items()})
        self._moving = terms_that("moves", settings)

    def setup(
        self, model: nn.Module, *, seed: int, teacher_width: int = 0, fresh: Collection[str] = (), known: int = 0
    ) -> list[Group]:
        """Create the terms' own parameters, after the strategy was applied; return their groups.

        Args:
            model: of the classifier.
            seed: of their initial values, the same on every rank; the global random state is preserved.
            teacher_width: width of a teacher's features, if a term reads them.
            fresh: names of the model's new parameters, see `Classifier`.
            known: number of outputs that are not new.

        Raises:
            UserError: for a term that needs a trainable encoder, if it is frozen.
        """
        head = {id(parameter) for layer in output_layers(model).values() for parameter in layer.parameters()}
        if self._moving and not any(p.requires_grad and id(p) not in head for p in model.parameters()):
            raise UserError(
                f"objective.{self._moving[0]} moves the encoder, and nothing below the output layer learns: freeze "
                "less (strategy.freeze, strategy.freeze_layers), or take objective=classify"
            )
        width = active_output(model).in_features
        groups = []
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            for name, term in self.terms.items():
                if isinstance(term, Dann):
                    term.setup(width)
                elif isinstance(term, Hint):
                    term.setup(width, teacher_width)
                elif isinstance(term, Anchor):
                    term.setup(model, fresh=fresh, known=known)
                if parameters := dict(term.named_parameters()):
                    groups.append(Group(name, parameters, cast(float, term.lr)))
        return groups

    def forward(self, outputs: Outputs, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the weighted sum of the terms for every example, (examples,)."""
        losses = [cast(float, term.weight) * term(outputs, batch, progress) for term in self.terms.values()]
        return sum(losses[1:], losses[0])


class Step(nn.Module):
    """Model and objective in one module, which is given to ``accelerator.prepare``.

    The terms' own parameters must be inside the wrapped module, or ranks would not synchronise them.
    """

    def __init__(self, model: nn.Module, objective: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return this batch's share Σ wᵢ·ℓᵢ of the step's loss, a scalar; the loop divides by the step's Σ wᵢ."""
        return (batch["weights"] * self.objective(forward(self.model, batch), batch, progress)).sum()
