"""One encoder, one output layer at a time: that of all tasks while they learn together, that of one to measure it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nlp_transfer.cache.features import with_features
from nlp_transfer.data.batches import Columns
from nlp_transfer.data.task import Task
from nlp_transfer.encoder.anatomy import output_layers, unwrapped
from nlp_transfer.encoder.heads import describe
from nlp_transfer.errors import UserError
from nlp_transfer.multitask.union import Union
from nlp_transfer.objectives.objective import Objective
from nlp_transfer.running.plan import plan_of
from nlp_transfer.running.preparation import Prepared
from nlp_transfer.wording import counted


class Heads:
    """The output layers of a model that was put together for all tasks.

    Args:
        prepared: for all of them.
        union: the tasks.

    Raises:
        UserError: for a strategy that adapts the output layer itself, which could not be divided.
    """

    def __init__(self, prepared: Prepared, union: Union) -> None:
        self.prepared, self.union = prepared, union
        self._inner: Any = unwrapped(prepared.classifier.model)
        self.name = next(reversed(output_layers(prepared.classifier.model)))
        self.layer = self._inner.get_submodule(self.name)
        if type(self.layer) is not nn.Linear:
            raise UserError("strategy.targets reaches the output layer, which several tasks share; leave it out")
        self._layers = getattr(self._inner.config, "layers", None)

    def put_all(self) -> None:
        """Let the model answer for all tasks."""
        self._put(self.layer, self.union.corpus.task)

    def put(self, task: Task, weight: Tensor | None = None, bias: Tensor | None = None) -> None:
        """Let the model answer for one task.

        Args:
            task: which.
            weight: (outputs, width); None: zeros, to be solved for.
            bias: (outputs,); None: zeros.
        """
        given = self.layer.weight
        own = nn.Linear(given.shape[1], task.outputs, bias=self.layer.bias is not None, device="meta")
        own = own.to_empty(device=given.device)
        with torch.no_grad():
            own.weight.copy_(torch.zeros_like(own.weight) if weight is None else weight)
            if own.bias is not None:
                own.bias.copy_(torch.zeros_like(own.bias) if bias is None else bias)
        self._put(own, task)

    def put_slice(self, number: int) -> None:
        """Let the model answer for one task, by what was learned for it among the others."""
        own = self.union.slices[number]
        bias = None if self.layer.bias is None else self.layer.bias[own]
        self.put(self.union.members[number].corpus.task, self.layer.weight[own], bias)

    def take_back(self, number: int) -> None:
        """Write the output layer of the task, which the model has now, into that of all."""
        own, layer = self.union.slices[number], self._inner.get_submodule(self.name)
        with torch.no_grad():
            self.layer.weight[own] = layer.weight
            if layer.bias is not None:
                self.layer.bias[own] = layer.bias

    def part(self, number: int, features: dict[str, np.ndarray], folder: Path) -> Prepared:
        """Return one task as a run of its own, whose encoder has read all texts and changes no more.

        Its output layer must be the one that the model has.

        Args:
            number: of the task.
            features: by split, of every text, float32 (texts, width).
            folder: of its run.
        """
        whole, member = self.prepared, self.union.members[number]
        corpus, places = member.corpus, self.union.places[number]
        known = {split: features[split][places[split]] for split in corpus.splits if split in features}
        columns = {}
        for split, examples in corpus.splits.items():
            taken = whole.columns[split].tokens.take(places[split])
            columns[split] = Columns(taken, examples.targets, examples.weights)
            if split in known:
                columns[split] = with_features(columns[split], known[split])
        settings = dataclasses.replace(member.settings, encoder=whole.settings.encoder)
        plan = plan_of(
            settings,
            corpus,
            whole.classifier,
            whole.groups,
            whole.spec,
            columns,
            whole.accelerator,
            folder,
            [*corpus.notes, f"learned together with {self._others(number)}"],
            whole.plan.padding,
        )
        return dataclasses.replace(
            whole,
            settings=settings,
            corpus=corpus,
            objective=Objective(settings.objective, corpus.task).to(whole.accelerator.device),
            columns=columns,
            plan=dataclasses.replace(plan, steps=whole.plan.steps, batch_size=whole.plan.batch_size),
            feature_cache=whole.feature_cache.known(whole.classifier, known),
            boundary=None,
        )

    def _others(self, number: int) -> str:
        """Say which tasks a task learned together with."""
        others = [member.name for place, member in enumerate(self.union.members) if place != number]
        return f"{counted(len(others), 'other task')}: {', '.join(others)}"

    def _put(self, layer: nn.Linear, task: Task) -> None:
        parent, _, leaf = self.name.rpartition(".")
        self._inner.get_submodule(parent).add_module(leaf, layer)
        describe(self._inner.config, task)
        self._inner.num_labels = task.outputs
        if self._layers is not None:  # a frozen encoder is read at those that suit a task
            self._inner.config.layers = list(self._layers)
