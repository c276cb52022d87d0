"""The output layers of a multitask model: one for all tasks during training, and one per task for everything else."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nlp_transfer.cache.features import with_features
from nlp_transfer.data.batches import Columns
from nlp_transfer.data.task import Task
from nlp_transfer.encoder.anatomy import output_layers, unwrapped
from nlp_transfer.encoder.heads import set_labels
from nlp_transfer.errors import UserError
from nlp_transfer.multitask.union import Union
from nlp_transfer.objectives.objective import Objective
from nlp_transfer.running.prepared import Prepared
from nlp_transfer.wording import counted


class Heads:
    """The output layers of a multitask model.

    Args:
        prepared: the parts of the multitask run.
        union: the tasks.

    Raises:
        UserError: for a strategy that adapts the output layer itself, which could then not be split.
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
        """Give the model the output layer of all tasks."""
        self._put(self.layer, self.union.corpus.task)

    def put(self, task: Task, weight: Tensor | None = None, bias: Tensor | None = None) -> None:
        """Give the model a new output layer for one task.

        Args:
            task: the task.
            weight: (outputs, width); None: zeros, to be fitted.
            bias: (outputs,); None: zeros.
        """
        shared = self.layer.weight
        layer = nn.Linear(shared.shape[1], task.outputs, bias=self.layer.bias is not None, device="meta")
        layer = layer.to_empty(device=shared.device)
        with torch.no_grad():
            layer.weight.copy_(torch.zeros_like(layer.weight) if weight is None else weight)
            if layer.bias is not None:
                layer.bias.copy_(torch.zeros_like(layer.bias) if bias is None else bias)
        self._put(layer, task)

    def put_slice(self, number: int) -> None:
        """Give the model a task's slice of the shared output layer."""
        outputs = self.union.slices[number]
        bias = None if self.layer.bias is None else self.layer.bias[outputs]
        self.put(self.union.members[number].corpus.task, self.layer.weight[outputs], bias)

    def take_back(self, number: int) -> None:
        """Copy the model's current output layer into the task's slice of the shared one."""
        outputs, layer = self.union.slices[number], self._inner.get_submodule(self.name)
        with torch.no_grad():
            self.layer.weight[outputs] = layer.weight
            if layer.bias is not None:
                self.layer.bias[outputs] = layer.bias

    def part(self, number: int, features: dict[str, np.ndarray]) -> Prepared:
        """Return the parts of a run of one task, with the encoder's features already computed.

        The model must have the task's output layer.

        Args:
            number: of the task.
            features: by split, the features of every text, float32 (texts, width).
        """
        whole, member = self.prepared, self.union.members[number]
        corpus, places = member.corpus, self.union.places[number]
        own_features = {split: features[split][places[split]] for split in corpus.splits if split in features}
        columns = {}
        for split, examples in corpus.splits.items():
            tokens = whole.columns[split].tokens.take(places[split])
            columns[split] = Columns(tokens, examples.targets, examples.weights)
            if split in own_features:
                columns[split] = with_features(columns[split], own_features[split])
        settings = dataclasses.replace(member.settings, encoder=whole.settings.encoder)
        return dataclasses.replace(
            whole,
            settings=settings,
            corpus=corpus,
            objective=Objective(settings.objective, corpus.task).to(whole.accelerator.device),
            columns=columns,
            feature_cache=whole.feature_cache.known(whole.classifier, own_features),
            boundary=None,
            notes=[*corpus.notes, f"learned together with {self._others(number)}"],
        )

    def _others(self, number: int) -> str:
        """Name the tasks that a task is trained together with."""
        others = [member.name for place, member in enumerate(self.union.members) if place != number]
        return f"{counted(len(others), 'other task')}: {', '.join(others)}"

    def _put(self, layer: nn.Linear, task: Task) -> None:
        parent, _, leaf = self.name.rpartition(".")
        self._inner.get_submodule(parent).add_module(leaf, layer)
        set_labels(self._inner.config, task)
        self._inner.num_labels = task.outputs
        if self._layers is not None:  # fitting the head of a frozen encoder may have chosen other layers
            self._inner.config.layers = list(self._layers)
