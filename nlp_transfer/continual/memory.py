"""What a run forgets: what the model that it goes on from gets on measured rows of earlier tasks, and what it gets."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nlp_transfer.continual.base import Base
from nlp_transfer.continual.rows import earlier
from nlp_transfer.data.corpus import Examples, Texts, encoded
from nlp_transfer.data.task import Task
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.formatting import number
from nlp_transfer.evaluation.metrics import compute
from nlp_transfer.predict import opened
from nlp_transfer.preparation import Prepared
from nlp_transfer.settings import DataSettings, DecisionSettings, Settings

_SHOWN = 3  # tasks, of which each has a line


@dataclass(frozen=True)
class Recalled:
    """An earlier task.

    Attributes:
        name: of the run that learned it, or of the file of its rows.
        split: that was measured.
        task: its own labels.
        examples: the measured rows.
        before: what the model gets on them that the run goes on from.
        after: what the model gets that the run made; nan as long as it has not.
    """

    name: str
    split: str
    task: Task
    examples: Examples
    before: float
    after: float = np.nan

    def to_json(self) -> dict[str, Any]:
        """Return the figures."""
        figures = {"metric": _metric(self.task), "before": self.before, "after": self.after}
        return {"name": self.name, "split": self.split, "rows": len(self.examples), **figures}

    @property
    def sentence(self) -> str:
        """Say what became of it."""
        figures = f"{_metric(self.task)} {number(self.before)} before, {number(self.after)} now"
        return f"Earlier task {self.name} ({len(self.examples):,} {self.split} rows): {figures}."


@dataclass(frozen=True)
class Memory:
    """The earlier tasks, the last first.

    Attributes:
        tasks: those whose rows are at hand.
        unknown: why others are not, in a sentence, or nothing.
    """

    tasks: list[Recalled]
    unknown: str = ""

    @classmethod
    def of(cls, settings: Settings) -> Memory | None:
        """Let the model that a run goes on from answer measured rows of the tasks before; None where there is none.

        By a process state of its own: to be called before that of the run is made, on every rank.
        """
        if not settings.continual.used:
            return None
        base, tasks = Base.of(settings), []
        model = opened(base.folder, dataclasses.replace(settings, decision=DecisionSettings()))
        try:
            for name, split, task, examples in _tasks(settings, base):
                if set(task.labels) <= set(base.task.labels):
                    logits = model.logits(examples.texts, examples.pairs)
                    tasks.append(Recalled(name, split, task, examples, _score(base.task, logits, task, examples)))
        except UserError as error:
            return cls(tasks, f"What was forgotten of {'other ' * bool(tasks)}earlier rows is not known: {error}")
        return cls(tasks)

    def measured(self, prepared: Prepared) -> Memory:
        """Return the same with what the trained model gets; to be called on every rank."""
        now = []
        for each in self.tasks:
            logits, _ = prepared.answers_to(Texts(each.examples.texts, each.examples.pairs))
            after = _score(prepared.corpus.task, logits, each.task, each.examples)
            now.append(dataclasses.replace(each, after=after))
        return dataclasses.replace(self, tasks=now)

    @property
    def forgetting(self) -> float:
        """How much worse the earlier tasks are now, on average; nan without any."""
        return float(np.mean([each.before - each.after for each in self.tasks])) if self.tasks else np.nan

    @property
    def sentences(self) -> list[str]:
        """Say it in few lines."""
        if len(self.tasks) <= _SHOWN:
            lines = [each.sentence for each in self.tasks]
        else:
            before, after = (float(np.mean([getattr(t, key) for t in self.tasks])) for key in ("before", "after"))
            worst = max(self.tasks, key=lambda each: each.before - each.after)
            mean = f"{_metric(worst.task)} {number(before)} before, {number(after)} now on average"
            lines = [f"{len(self.tasks)} earlier tasks: {mean}.", f"Most was forgotten here: {worst.sentence}"]
        return [*lines, *filter(None, [self.unknown])]

    def to_json(self) -> dict[str, Any]:
        """Return the figures."""
        return {"forgetting": self.forgetting, "tasks": [each.to_json() for each in self.tasks]}


def _tasks(settings: Settings, base: Base) -> Iterator[tuple[str, str, Task, Examples]]:
    """Yield name, split, task and measured rows of the tasks before, the last first."""
    while True:
        rows = earlier(settings, base)
        split = "test" if "test" in rows.rows else "validation"
        given = settings.continual.data
        name = Path(given if given is not None else base.folder.resolve().parent).name
        yield name, split, rows.task, encoded(rows, DataSettings()).splits[split]
        if given is not None or not base.made_by.continual.used:
            return
        settings = base.made_by
        base = Base.of(settings)


def _metric(task: Task) -> str:
    return "micro_f1" if task.problem == "multi_label" else "accuracy"


def _score(asked: Task, logits: np.ndarray, task: Task, examples: Examples) -> float:
    """Return the figure of a model with more labels on rows of a task."""
    places = np.array([asked.labels.index(name) for name in task.labels])
    targets = examples.targets
    if targets.ndim == 1:
        targets = places[targets]
    else:
        wide = np.zeros((len(targets), len(asked.labels)), targets.dtype)
        wide[:, places] = targets
        targets = wide
    return compute(asked, logits, targets, examples.weights)[_metric(task)]
