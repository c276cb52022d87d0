"""Measurement of forgetting: scores on earlier tasks' measured rows before and after a continual run."""

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
from nlp_transfer.predicting.predict import load_predictor
from nlp_transfer.running.prepared import Prepared
from nlp_transfer.settings import DecisionSettings, Settings

_MOST_LINES = 3  # with more tasks, only their mean and the worst are reported


@dataclass(frozen=True)
class LeftOut:
    """The number of measured rows of earlier tasks that are left out.

    Attributes:
        taught: rows whose texts this run trains on.
        foreign: other rows with a label that one of the two models cannot predict.
    """

    taught: int = 0
    foreign: int = 0

    def __add__(self, other: LeftOut) -> LeftOut:
        return LeftOut(self.taught + other.taught, self.foreign + other.foreign)

    def __str__(self) -> str:
        """Return a clause to append to a sentence; empty if no row is left out."""
        taught = [f"{self.taught:,} that this run trains on"] * bool(self.taught)
        foreign = [f"{self.foreign:,} with a label that one of the models lacks"] * bool(self.foreign)
        return f"; without {' and '.join(taught + foreign)}" if taught or foreign else ""


@dataclass(frozen=True)
class EarlierTask:
    """The scores on one earlier task.

    Attributes:
        name: of the run that learned it, or of the file with its rows.
        split: the measured split.
        task: with its own labels.
        examples: the measured rows.
        left_out: see `LeftOut`.
        before: the base model's score on them.
        after: the new model's score; nan until it is trained.
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
        """The scores in words."""
        figures = f"{_metric(self.task)} {number(self.before)} before, {number(self.after)} now"
        return f"Earlier task {self.name} ({len(self.examples):,} {self.split} rows{self.left_out}): {figures}."


@dataclass(frozen=True)
class Forgetting:
    """The scores on all earlier tasks, latest first.

    Attributes:
        tasks: those whose rows are available.
        unknown: sentences on why the others could not be measured.
    """

    tasks: list[EarlierTask]
    unknown: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, settings: Settings, corpus: Corpus) -> Forgetting | None:
        """Measure the base model on the earlier tasks; None if the run does not continue from another one.

        It sets up a process state of its own, so it must be called before the run's own is made, on every rank.

        Args:
            settings: of the run.
            corpus: the run's own data.
        """
        if not settings.continual.used:
            return None
        base, found = Base.of(settings), cls([])
        model = load_predictor(base.folder, dataclasses.replace(settings, decision=DecisionSettings()))
        shared_labels = [label for label in base.task.labels if label in corpus.task.labels]
        train_keys = corpus.splits["train"].keys
        try:
            for name, rows in _tasks(settings, base):
                split = "test" if "test" in rows.rows else "validation"
                part, left_out = _comparable(rows.rows[split], shared_labels, train_keys)
                if not len(part):
                    found.unknown.append(
                        f"Forgetting of earlier task {name} is not known: no {split} row is left{left_out}."
                    )
                    continue
                examples = examples_of(part, rows.task, split=split)
                before = _score(base.task, model.logits(examples.texts, examples.pairs), rows.task, examples)
                found.tasks.append(EarlierTask(name, split, rows.task, examples, left_out, before))
        except UserError as error:
            others = "other " * bool(found.tasks or found.unknown)
            found.unknown.append(f"Forgetting of {others}earlier rows is not known: {error}")
        return found

    def measured(self, prepared: Prepared) -> Forgetting:
        """Return a copy with the trained model's scores; must be called on every rank."""
        tasks = []
        for each in self.tasks:
            logits, _ = prepared.logits_and_features(each.examples)
            after = _score(prepared.corpus.task, logits, each.task, each.examples)
            tasks.append(dataclasses.replace(each, after=after))
        return dataclasses.replace(self, tasks=tasks)

    @property
    def mean_drop(self) -> float:
        """Mean drop of the score over the earlier tasks; nan without any."""
        return float(np.mean([each.before - each.after for each in self.tasks])) if self.tasks else np.nan

    @property
    def sentences(self) -> list[str]:
        """The report's sentences."""
        if len(self.tasks) <= _MOST_LINES:
            lines = [each.sentence for each in self.tasks]
        else:
            before, after = (float(np.mean([getattr(t, key) for t in self.tasks])) for key in ("before", "after"))
            worst = max(self.tasks, key=lambda each: each.before - each.after)
            mean = f"{_metric(worst.task)} {number(before)} before, {number(after)} now on average"
            left_out = sum((each.left_out for each in self.tasks), LeftOut())
            lines = [f"{len(self.tasks)} earlier tasks{left_out}: {mean}."]
            lines.append(f"The largest drop: {worst.sentence}")
        return [*lines, *self.unknown]

    def to_json(self) -> dict[str, Any]:
        """Return the figures."""
        return {"forgetting": self.mean_drop, "tasks": [each.to_json() for each in self.tasks]}


def _tasks(settings: Settings, base: Base) -> Iterator[tuple[str, ReadCorpus]]:
    """Yield names and rows of the earlier tasks, latest first."""
    while True:
        rows = earlier(settings, base)
        given = settings.continual.data
        yield Path(given if given is not None else base.folder.resolve().parent).name, rows
        if given is not None or not base.run_settings.continual.used:
            return
        settings = base.run_settings
        base = Base.of(settings)


def _comparable(part: Rows, shared_labels: Sequence[str], train_keys: Keys) -> tuple[Rows, LeftOut]:
    """Return the rows that both models can predict and the new one was not trained on, and the number of others.

    Args:
        part: measured rows of an earlier task.
        shared_labels: labels that both models know.
        train_keys: keys of the new model's training rows.
    """
    taught, foreign = part.keys.among(train_keys), np.zeros(len(part), bool)
    foreign[unseen(part.labels, shared_labels)] = True
    left_out = LeftOut(taught=int(taught.sum()), foreign=int((foreign & ~taught).sum()))
    return part.take(rows_where(~(taught | foreign))), left_out


def _metric(task: Task) -> str:
    return "micro_f1" if task.problem == "multi_label" else "accuracy"


def _score(model_task: Task, logits: np.ndarray, task: Task, examples: Examples) -> float:
    """Return the metric of a model, which may have more labels, on rows of an earlier task."""
    place = {name: output for output, name in enumerate(model_task.labels)}
    places = np.array([place.get(name, -1) for name in task.labels])  # -1: no measured row has it
    targets = examples.targets
    if targets.ndim == 1:
        targets = places[targets]
    else:
        wide = np.zeros((len(targets), len(model_task.labels)), targets.dtype)
        wide[:, places[places >= 0]] = targets[:, places >= 0]
        targets = wide
    return compute(model_task, logits, targets, examples.weights)[_metric(task)]
