"""What the page of a run is made of: plain values, in an order that does not hang on the order of the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nlp_transfer.evaluation.formatting import MODEL

if TYPE_CHECKING:
    from nlp_transfer.data.corpus import Examples
    from nlp_transfer.data.task import Task
    from nlp_transfer.evaluation.baselines import Floor
    from nlp_transfer.evaluation.report import Report
    from nlp_transfer.settings import Settings


@dataclass(frozen=True)
class Measured:
    """A model that was measured.

    Attributes:
        examples: the rows.
        logits: (rows, outputs).
        floors: of the same rows.
        report: the figures.
        train: the training rows; None where they are not at hand.
    """

    examples: Examples
    logits: np.ndarray
    floors: Sequence[Floor]
    report: Report
    train: Examples | None


@dataclass(frozen=True)
class Answers:
    """What one predictor said of every row, and by which rule it decides.

    Attributes:
        name: "model", or that of a floor.
        task: with its own thresholds.
        logits: (rows, outputs).
    """

    name: str
    task: Task
    logits: np.ndarray


@dataclass(frozen=True)
class Evidence:
    """A measured model.

    Attributes:
        title: what it is called.
        facts: what was adapted: a name, and what there is to say of it.
        costs: the same of what it took; none where nothing was trained.
        examples: the rows of the reported split, by id.
        train: the training rows; None where they are not at hand.
        report: the figures.
        answers: the model's first, then those of the floors, in the order of the examples.
        steps: lines of metrics.jsonl.
        seed, resamples: of the bootstrap, as those of the report.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    costs: Sequence[tuple[str, str]]
    examples: Examples
    train: Examples | None
    report: Report
    answers: Sequence[Answers]
    steps: Sequence[Mapping[str, Any]]
    seed: int
    resamples: int

    @property
    def model(self) -> Answers:
        """The model's answers."""
        return self.answers[0]

    @property
    def task(self) -> Task:
        """The task with the model's rules."""
        return self.model.task

    @property
    def compared(self) -> list[Answers]:
        """The model, and the floor that it is compared with, where there is one."""
        against = self.report.comparison
        return [each for each in self.answers if each.name == MODEL or (against and each.name == against.floor)]


def evidence_of(
    task: Task,
    measured: Measured,
    settings: Settings,
    *,
    title: str,
    facts: Sequence[tuple[str, str]],
    costs: Sequence[tuple[str, str]] = (),
    steps: Sequence[Mapping[str, Any]] = (),
) -> Evidence:
    """Put together what was measured, by the ids of the rows; see `Evidence`."""
    order = np.argsort(np.asarray(measured.examples.ids), kind="stable")
    answers = [Answers(MODEL, task, measured.logits[order])]
    answers += [Answers(floor.name, floor.with_threshold(task), floor.logits[order]) for floor in measured.floors]
    return Evidence(
        title=title,
        facts=facts,
        costs=costs,
        examples=measured.examples.take(order.tolist()),
        train=measured.train,
        report=measured.report,
        answers=answers,
        steps=steps,
        seed=settings.seed,
        resamples=settings.evaluation.resamples,
    )
