"""What a run forgets: what the model that it goes on from gets on measured rows of earlier tasks, and what it gets."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nlp_transfer.continual.base import Base
from nlp_transfer.continual.rows import earlier
from nlp_transfer.data.corpus import Corpus, Examples, ReadCorpus, examples_of
from nlp_transfer.data.keys import Keys, rows_where
from nlp_transfer.data.rows import Rows
from nlp_transfer.data.task import Task, unseen
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.formatting import number
from nlp_transfer.evaluation.metrics import compute
from nlp_transfer.predicting.predict import opened
from nlp_transfer.running.preparation import Prepared
from nlp_transfer.settings import DecisionSettings, Settings

_SHOWN = 3  # tasks, of which each has a line


@dataclass(frozen=True)
class LeftOut:
    """How many measured rows of earlier tasks nothing is asked of.

    Attributes:
        taught: whose texts are among the training rows of this run, which would be measured on what it learned.
        foreign: with a label that one of the two models cannot answer with.
    """

    taught: int = 0
    foreign: int = 0

    def __add__(self, other: LeftOut) -> LeftOut:
        return LeftOut(self.taught + other.taught, self.foreign + other.foreign)

    def __str__(self) -> str:
        """Say it behind other words; where there are none, nothing."""
        taught = [f"{self.taught:,} that this run learns from"] * bool(self.taught)
        foreign = [f"{self.foreign:,} with a label that one of the models lacks"] * bool(self.foreign)
        return f"; without {' and '.join(taught + foreign)}" if taught or foreign else ""


@dataclass(frozen=True)
class EarlierTask:
    """An earlier task.

    Attributes:
        name: of the run that learned it, or of the file of its rows.
        split: that was measured.
        task: its own labels.
        examples: the measured rows.
        left_out: see `LeftOut`.
        before: what the model gets on them that the run goes on from.
        after: what the model gets that the run made; nan as long as it has not.
    """

    name: str
    split: str
    task: Task
    examples: Examples
    left_out: LeftOut
    before: float
    after: float = np.nan

    def to_json(self) -> dict[str, Any]:
        """Return the figures."""
        figures = {"metric": _metric(self.task), "before": self.before, "after": self.after}
        rows = {"rows": len(self.examples), "left_out": dataclasses.asdict(self.left_out)}
        return {"name": self.name, "split": self.split, **rows, **figures}

    @property
    def sentence(self) -> str:
        """Say what became of it."""
        figures = f"{_metric(self.task)} {number(self.before)} before, {number(self.after)} now"
        return f"Earlier task {self.name} ({len(self.examples):,} {self.split} rows{self.left_out}): {figures}."


@dataclass(frozen=True)
class Memory:
    """The earlier tasks, the last first.

    Attributes:
        tasks: those whose rows are at hand.
        unknown: what is not known of others and why, in sentences.
    """

    tasks: list[EarlierTask]
    unknown: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, settings: Settings, corpus: Corpus) -> Memory | None:
        """Let the model that a run goes on from answer measured rows of the tasks before; None where there is none.

        By a process state of its own: to be called before that of the run is made, on every rank.

        Args:
            settings: of the run.
            corpus: its rows.
        """
        if not settings.continual.used:
            return None
        base, memory = Base.of(settings), cls([])
        model = opened(base.folder, dataclasses.replace(settings, decision=DecisionSettings()))
        answered = [label for label in base.task.labels if label in corpus.task.labels]
        taught = corpus.splits["train"].keys
        try:
            for name, rows in _tasks(settings, base):
                split = "test" if "test" in rows.rows else "validation"
                part, left_out = _fair(rows.rows[split], answered, taught)
                if not len(part):
                    memory.unknown.append(
                        f"What was forgotten of earlier task {name} is not known: no {split} row is left{left_out}."
                    )
                    continue
                examples = examples_of(part, rows.task, split=split)
                before = _score(base.task, model.logits(examples.texts, examples.pairs), rows.task, examples)
                memory.tasks.append(EarlierTask(name, split, rows.task, examples, left_out, before))
        except UserError as error:
            others = "other " * bool(memory.tasks or memory.unknown)
            memory.unknown.append(f"What was forgotten of {others}earlier rows is not known: {error}")
        return memory

    def measured(self, prepared: Prepared) -> Memory:
        """Return the same with what the trained model gets; to be called on every rank."""
        now = []
        for each in self.tasks:
            logits, _ = prepared.logits_and_features(each.examples)
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
            left_out = sum((each.left_out for each in self.tasks), LeftOut())
            lines = [f"{len(self.tasks)} earlier tasks{left_out}: {mean}."]
            lines.append(f"Most was forgotten here: {worst.sentence}")
        return [*lines, *self.unknown]

    def to_json(self) -> dict[str, Any]:
        """Return the figures."""
        return {"forgetting": self.forgetting, "tasks": [each.to_json() for each in self.tasks]}


def _tasks(settings: Settings, base: Base) -> Iterator[tuple[str, ReadCorpus]]:
    """Yield names and rows of the tasks before, the last first."""
    while True:
        rows = earlier(settings, base)
        given = settings.continual.data
        yield Path(given if given is not None else base.folder.resolve().parent).name, rows
        if given is not None or not base.made_by.continual.used:
            return
        settings = base.made_by
        base = Base.of(settings)


def _fair(part: Rows, answered: Sequence[str], learned: Keys) -> tuple[Rows, LeftOut]:
    """Return the rows that both models can answer and that are new to the later one, and how many others there are.

    Args:
        part: measured rows of an earlier task.
        answered: labels that both models know.
        learned: keys of the training rows of the later one.
    """
    taught, foreign = part.keys.among(learned), np.zeros(len(part), bool)
    foreign[unseen(part.labels, answered)] = True
    left_out = LeftOut(taught=int(taught.sum()), foreign=int((foreign & ~taught).sum()))
    return part.take(rows_where(~(taught | foreign))), left_out


def _metric(task: Task) -> str:
    return "micro_f1" if task.problem == "multi_label" else "accuracy"


def _score(asked: Task, logits: np.ndarray, task: Task, examples: Examples) -> float:
    """Return the figure of a model with more labels on rows of a task."""
    place = {name: number for number, name in enumerate(asked.labels)}
    places = np.array([place.get(name, -1) for name in task.labels])  # -1: no measured row has it
    targets = examples.targets
    if targets.ndim == 1:
        targets = places[targets]
    else:
        wide = np.zeros((len(targets), len(asked.labels)), targets.dtype)
        wide[:, places[places >= 0]] = targets[:, places >= 0]
        targets = wide
    return compute(asked, logits, targets, examples.weights)[_metric(task)]
