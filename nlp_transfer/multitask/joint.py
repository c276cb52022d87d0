"""The training of one encoder on the rows of several tasks: heads solved one by one, then gradient steps on all."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from nlp_transfer.cache.features import with_features
from nlp_transfer.data.batches import Columns
from nlp_transfer.data.sampling import TaskOrder, sharpness
from nlp_transfer.data.task import dense
from nlp_transfer.decision.fitting import Fitted
from nlp_transfer.evaluation.calibration import Calibration
from nlp_transfer.evaluation.names import sign_of
from nlp_transfer.multitask.heads import Heads
from nlp_transfer.multitask.objective import Together
from nlp_transfer.multitask.union import TRAIN, Union
from nlp_transfer.objectives.classify import Classify
from nlp_transfer.objectives.objective import Step
from nlp_transfer.objectives.settings import ClassifySettings
from nlp_transfer.running.head import TargetScale
from nlp_transfer.running.learning import TrainingInputs, optimize, score, start_head, starts_solved
from nlp_transfer.running.preparation import Prepared
from nlp_transfer.terminal.progress import reading
from nlp_transfer.training.callbacks import Validation
from nlp_transfer.training.length import batch_size
from nlp_transfer.training.loop import TrainingData
from nlp_transfer.training.memory import release_free_memory
from nlp_transfer.training.state import Trajectory

if TYPE_CHECKING:
    from nlp_transfer.running.folder import RunFolder
    from nlp_transfer.terminal.console import Screen
    from nlp_transfer.training.loop import Saving

_MEAN = "mean over tasks"


@dataclass
class Joint:
    """One training, and what is remembered of it for each task.

    Attributes:
        prepared: the parts of a run that has the outputs of all tasks.
        union: the tasks.
        heads: its output layers.
        units: in which the targets of each task are learned.
        penalties: the L2 penalty that suits each head on features before the training, 0 where none was sought.
    """

    prepared: Prepared
    union: Union
    heads: Heads
    units: list[TargetScale] = field(default_factory=list)
    penalties: list[float] = field(default_factory=list)

    def learn(self, prepared: Prepared, folder: RunFolder, screen: Screen, saving: Saving) -> tuple[Trajectory, Fitted]:
        """Change the model; how outputs become labels is chosen task by task, later. See ``learning.learn``."""
        if not prepared.strategy.trains:
            return Trajectory(), Fitted(Calibration())
        with prepared.skipping_frozen_layers(screen):
            self._start(screen, saving, folder.path)
            trajectory = optimize(prepared, self._inputs(), folder, screen, saving)
        release_free_memory()
        return trajectory, Fitted(Calibration())

    def _start(self, screen: Screen, saving: Saving, folder: Path) -> None:
        """Solve the head of every task on frozen features, where a run starts so, and put them into one."""
        prepared, solved = self.prepared, starts_solved(self.prepared, saving)
        features = {}
        if solved or prepared.strategy.head_last:
            with reading(screen, "reading the texts of all tasks"):
                features[TRAIN] = prepared.features(TRAIN)
        for number in range(len(self.union.members)):
            self.heads.put_slice(number)
            part = self.heads.part(number, features, folder)
            self.penalties.append(start_head(part, screen, saving))
            self.units.append(TargetScale.of(part))
            if solved:
                self.units[-1].scale_output(part)
                self.heads.take_back(number)
        self.heads.put_all()

    def _inputs(self) -> TrainingInputs:
        prepared, settings, union = self.prepared, self.prepared.settings, self.union
        tasks = [member.corpus.task for member in union.members]
        knobs = cast(ClassifySettings, settings.objective["classify"])
        together = Together(knobs, tasks, union.slices, balance=settings.multitask.balance)
        together.to(prepared.accelerator.device)
        own = settings.multitask
        order = TaskOrder(
            union.rows,
            batch_size=batch_size(max(union.rows), settings.training),
            seed=settings.seed,
            temperature=sharpness(own.sampling, own.temperature),
        )
        has_validation = "validation" in union.corpus.splits
        return TrainingInputs(
            Step(prepared.classifier.model, together),
            [*prepared.groups, *together.groups],
            TrainingData(self.columns(together), prepared.padding, sampler=order.step),
            union.ids,
            Validation(self._measure, _MEAN, higher_is_better=True) if has_validation else None,
        )

    def columns(self, together: Together) -> Columns:
        """Return the training rows of all tasks, one behind the other.

        Of a task the weights are divided by their mean, so that they say nothing of other tasks.
        """
        whole, union = self.prepared.columns[TRAIN], self.union
        if self.prepared.strategy.frozen:
            whole = with_features(whole, self.prepared.features(TRAIN))
        rows = whole.take(np.concatenate([places[TRAIN] for places in union.places]))
        targets = np.zeros((len(rows), union.corpus.task.outputs), np.float32)
        weights, start = [], 0
        for number, (member, term) in enumerate(zip(union.members, together.terms, strict=True)):
            examples, task = member.corpus.splits[TRAIN], member.corpus.task
            own = slice(start, start + len(examples))
            start = own.stop
            wanted = examples.targets
            if task.problem == "ordinal" and wanted.ndim == 1:
                wanted = cast(Classify, term).distribution(torch.from_numpy(wanted), task.outputs).numpy()
            elif task.problem == "regression":
                wanted = self.units[number].scale(wanted)
            targets[own, union.slices[number]] = dense(task, wanted)
            weights.append(examples.weights / examples.weights.mean(dtype=np.float64))
        return dataclasses.replace(
            rows, targets=targets, weights=np.concatenate(weights).astype(np.float32), task=union.task_of_rows
        )

    def _measure(self) -> dict[str, float]:
        """Return of every task the metric that decides for it, and the mean of them; where less is better, negative."""
        logits, found = self.prepared.outputs("validation"), {}
        for number, member in enumerate(self.union.members):
            held = member.corpus.splits.get("validation")
            if held is None:
                continue
            own = logits[self.union.places[number]["validation"], self.union.slices[number]]
            values = score(member.settings, self.units[number].unscale(own), held, member.corpus.task)
            found[member.name] = sign_of(member.metric) * values[member.metric]
        known = [value for value in found.values() if not math.isnan(value)]
        return {_MEAN: float(np.mean(known)) if known else math.nan, **found}
