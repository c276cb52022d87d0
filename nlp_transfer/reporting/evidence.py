"""The data behind the report of a run, sorted so that it does not depend on the order of the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nlp_transfer.evaluation.formatting import MODEL
from nlp_transfer.evaluation.intervals import Bootstrap

if TYPE_CHECKING:
    from nlp_transfer.data.corpus import Examples
    from nlp_transfer.data.task import Task
    from nlp_transfer.evaluation.baselines import Baseline
    from nlp_transfer.evaluation.report import Report
    from nlp_transfer.settings import Settings


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a model.

    Attributes:
        examples: the rows.
        logits: (rows, outputs).
        baselines: for the same rows.
        report: the figures.
        train: the training rows; None if not available.
    """

    examples: Examples
    logits: np.ndarray
    baselines: Sequence[Baseline]
    report: Report
    train: Examples | None


@dataclass(frozen=True)
class PredictorOutputs:
    """The outputs of one predictor for every row.

    Attributes:
        name: "model", or the name of a baseline.
        task: with its own thresholds.
        logits: (rows, outputs).
    """

    name: str
    task: Task
    logits: np.ndarray


@dataclass(frozen=True)
class Evidence:
    """Everything that a report shows.

    Attributes:
        title: of the page.
        facts: names and descriptions of what was adapted.
        costs: likewise of what the training took; empty if nothing was trained.
        examples: the rows of the reported split, sorted by id.
        train: the training rows; None if not available.
        report: the figures.
        answers: the model's first, then the baselines', in the order of the examples.
        steps: lines of metrics.jsonl.
        bootstrap: as in the report.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    costs: Sequence[tuple[str, str]]
    examples: Examples
    train: Examples | None
    report: Report
    answers: Sequence[PredictorOutputs]
    steps: Sequence[Mapping[str, Any]]
    bootstrap: Bootstrap

    @property
    def model(self) -> PredictorOutputs:
        """The model's answers."""
        return self.answers[0]

    @property
    def task(self) -> Task:
        """The task with the model's rules."""
        return self.model.task

    @property
    def compared(self) -> list[PredictorOutputs]:
        """The answers of the model, and of the baseline it is compared with, if any."""
        comparison = self.report.comparison
        return [each for each in self.answers if each.name == MODEL or (comparison and each.name == comparison.floor)]


def evidence_of(
    task: Task,
    evaluation: Evaluation,
    settings: Settings,
    *,
    title: str,
    facts: Sequence[tuple[str, str]],
    costs: Sequence[tuple[str, str]] = (),
    steps: Sequence[Mapping[str, Any]] = (),
) -> Evidence:
    """Collect what was measured, sorted by row id; for the arguments see `Evidence`."""
    order = np.argsort(np.asarray(evaluation.examples.ids), kind="stable")
    answers = [PredictorOutputs(MODEL, task, evaluation.logits[order])]
    answers += [
        PredictorOutputs(baseline.name, baseline.with_threshold(task), baseline.logits[order])
        for baseline in evaluation.baselines
    ]
    return Evidence(
        title=title,
        facts=facts,
        costs=costs,
        examples=evaluation.examples.take(order.tolist()),
        train=evaluation.train,
        report=evaluation.report,
        answers=answers,
        steps=steps,
        bootstrap=Bootstrap.of(settings.evaluation, seed=settings.seed),
    )
