"""Multitask training: the heads are fitted one by one, then gradient steps are taken on the rows of all tasks."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from nlp_transfer.cache.features import with_features
from nlp_transfer.data.batches import Columns
from nlp_transfer.data.sampling import TaskOrder, sharpness
from nlp_transfer.data.task import dense
from nlp_transfer.evaluation.names import sign_of
from nlp_transfer.multitask.heads import Heads
from nlp_transfer.multitask.objective import MultitaskLoss
from nlp_transfer.multitask.union import TRAIN, Union
from nlp_transfer.objectives.classify import Classify
from nlp_transfer.objectives.objective import Step
from nlp_transfer.objectives.settings import ClassifySettings
from nlp_transfer.running.fitting import FittedRules
from nlp_transfer.running.head import TargetScale
from nlp_transfer.running.learning import TrainingInputs, optimize, score, start_head, starts_solved
from nlp_transfer.running.prepared import Prepared
from nlp_transfer.terminal.progress import reading
from nlp_transfer.training.callbacks import Validation
from nlp_transfer.training.length import batch_size
from nlp_transfer.training.loop import TrainingData
from nlp_transfer.training.memory import release_free_memory
from nlp_transfer.training.state import Trajectory

if TYPE_CHECKING:
    from nlp_transfer.running.folder import RunFolder
    from nlp_transfer.terminal.console import Screen
    from nlp_transfer.training.loop import Checkpointing

_MEAN = "mean over tasks"


@dataclass
class JointTraining:
    """A multitask training, with its state for each task.

    Attributes:
        union: the tasks.
        heads: the output layers.
        units: the scale of each task's targets.
        penalties: the L2 penalty chosen for each head on features before training; 0 if none was chosen.
    """

    union: Union
    heads: Heads
    units: list[TargetScale] = field(default_factory=list)
    penalties: list[float] = field(default_factory=list)

    def learn(
        self, prepared: Prepared, folder: RunFolder, screen: Screen, checkpointing: Checkpointing
    ) -> tuple[Trajectory, FittedRules]:
        """Train the model; decision rules are fitted later, task by task. See ``learning.learn``."""
        if not prepared.strategy.trains:
            return Trajectory(), FittedRules(prepared.corpus.task)
        with prepared.skipping_frozen_layers(screen) as shortened:
            self._start(shortened, screen, checkpointing)
            trajectory = optimize(shortened, self._inputs(shortened), folder, screen, checkpointing)
        release_free_memory()
        return trajectory, FittedRules(prepared.corpus.task)

    def _start(self, prepared: Prepared, screen: Screen, checkpointing: Checkpointing) -> None:
        """Fit the head of every task on frozen features, if a run starts that way, and join them into one layer."""
        solved, features = starts_solved(prepared, checkpointing), {}
        if solved or prepared.strategy.head_last:
            with reading(screen, "reading the texts of all tasks"):
                features[TRAIN] = prepared.features(TRAIN)
        for number in range(len(self.union.members)):
            self.heads.put_slice(number)
            part = self.heads.part(number, features)
            self.penalties.append(start_head(part, screen, checkpointing))
            self.units.append(TargetScale.of(part))
            if solved:
                self.units[-1].scale_output(part)
                self.heads.take_back(number)
        self.heads.put_all()

    def _inputs(self, prepared: Prepared) -> TrainingInputs:
        settings, union = prepared.settings, self.union
        tasks = [member.corpus.task for member in union.members]
        classify, multitask = cast(ClassifySettings, settings.objective["classify"]), settings.multitask
        loss = MultitaskLoss(classify, tasks, union.slices, balance=multitask.balance)
        loss.to(prepared.accelerator.device)
        order = TaskOrder(
            union.rows,
            batch_size=batch_size(max(union.rows), settings.training),
            seed=settings.seed,
            temperature=sharpness(multitask.sampling, multitask.temperature),
        )
        has_validation = "validation" in union.corpus.splits
        return TrainingInputs(
            Step(prepared.classifier.model, loss),
            [*prepared.groups, *loss.groups],
            TrainingData(self.columns(prepared, loss), prepared.padding, sampler=order.step),
            union.ids,
            Validation(partial(self._measure, prepared), _MEAN, higher_is_better=True) if has_validation else None,
        )

    def columns(self, prepared: Prepared, loss: MultitaskLoss) -> Columns:
        """Return the training rows of all tasks, concatenated.

        Example weights are scaled to mean 1 in each task, so that they do not weigh tasks against each other.
        """
        whole, union = prepared.columns[TRAIN], self.union
        if prepared.strategy.frozen:
            whole = with_features(whole, prepared.features(TRAIN))
        rows = whole.take(np.concatenate([places[TRAIN] for places in union.places]))
        targets = np.zeros((len(rows), union.corpus.task.outputs), np.float32)
        weights, start = [], 0
        for number, (member, term) in enumerate(zip(union.members, loss.terms, strict=True)):
            examples, task = member.corpus.splits[TRAIN], member.corpus.task
            task_rows = slice(start, start + len(examples))
            start = task_rows.stop
            task_targets = examples.targets
            if task.problem == "ordinal" and task_targets.ndim == 1:
                task_targets = cast(Classify, term).distribution(torch.from_numpy(task_targets), task.outputs).numpy()
            elif task.problem == "regression":
                task_targets = self.units[number].scale(task_targets)
            targets[task_rows, union.slices[number]] = dense(task, task_targets)
            weights.append(examples.weights / examples.weights.mean(dtype=np.float64))
        return dataclasses.replace(
            rows, targets=targets, weights=np.concatenate(weights).astype(np.float32), task=union.task_of_rows
        )

    def _measure(self, prepared: Prepared) -> dict[str, float]:
        """Return each task's metric on its validation rows, and their mean; negated if lower is better."""
        logits, scores = prepared.outputs("validation"), {}
        for number, member in enumerate(self.union.members):
            held = member.corpus.splits.get("validation")
            if held is None:
                continue
            task_logits = logits[self.union.places[number]["validation"], self.union.slices[number]]
            values = score(member.settings, self.units[number].unscale(task_logits), held, member.corpus.task)
            scores[member.name] = sign_of(member.metric) * values[member.metric]
        defined = [value for value in scores.values() if not math.isnan(value)]
        return {_MEAN: float(np.mean(defined)) if defined else math.nan, **scores}
