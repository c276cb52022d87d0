"""From a run, or a model that was measured once more, to the pages about its figures; of this machine names alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nlp_transfer.data.paths import expanded
from nlp_transfer.run_folder import PACE, STEPS

if TYPE_CHECKING:
    from nlp_transfer.data.corpus import Examples
    from nlp_transfer.data.task import Task
    from nlp_transfer.evaluation.baselines import Floor
    from nlp_transfer.evaluation.report import Report
    from nlp_transfer.plan import Plan
    from nlp_transfer.preparation import Prepared
    from nlp_transfer.reporting.evidence import Evidence
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
class Took:
    """What a training took."""

    seconds: float
    steps: int


def write_pages(
    prepared: Prepared, measured: Measured, took: Took, folder: Path, *, source: str, tell: Callable[[str], None]
) -> None:
    """Write the pages of a run; where that fails, say so: a training is not lost for a page.

    Args:
        prepared: the run.
        measured: its figures and what they are of.
        took: what its training took.
        folder: of the run.
        source: where the rows come from.
        tell: is told in a sentence what became of a page that cannot be written.
    """
    try:
        from nlp_transfer.reporting.files import write_pages
        from nlp_transfer.reporting.report_page import document_of

        settings, plan = prepared.settings, prepared.plan
        document = document_of(
            _evidence(
                prepared.corpus.task,
                measured,
                settings,
                title=str(settings.name),
                facts=_facts(prepared, source),
                costs=_costs(plan, took, folder),
                steps=_lines(folder / STEPS),
            )
        )
        write_pages(document, folder)
    except Exception as error:
        tell(f"the run has no report ({type(error).__name__}: {' '.join(str(error).split())}); all else is there")


def write_page(folder: Path, task: Task, measured: Measured, settings: Settings, *, source: str) -> None:
    """Write the page of a model that was measured once more.

    Args:
        folder: of the model or its run.
        task: with the rules that it was measured by.
        measured: the figures and what they are of.
        settings: its `report.output` says where.
        source: where the rows come from.

    Raises:
        UserError: if it cannot be written.
    """
    from nlp_transfer.evaluation.formatting import counted
    from nlp_transfer.reporting.files import write
    from nlp_transfer.reporting.report_page import document_of

    name, report = folder.resolve().name, measured.report
    rows = source if source == report.split else f"{source}, {report.split}".removeprefix(", ")
    facts = [("model", name), ("data", f"{rows}: {counted(report.examples, 'row')}")]
    evidence = _evidence(task, measured, settings, title=f"{name}, evaluated", facts=facts)
    write(document_of(evidence), expanded(str(settings.report.output)))


def _evidence(
    task: Task,
    measured: Measured,
    settings: Settings,
    *,
    title: str,
    facts: Sequence[tuple[str, str]],
    costs: Sequence[tuple[str, str]] = (),
    steps: Sequence[dict[str, Any]] = (),
) -> Evidence:
    from nlp_transfer.reporting.evidence import evidence_of

    return evidence_of(
        task,
        measured.examples,
        measured.logits,
        floors=measured.floors,
        report=measured.report,
        train=measured.train,
        title=title,
        facts=facts,
        costs=costs,
        steps=steps,
        seed=settings.seed,
        resamples=settings.evaluation.resamples,
    )


def _facts(prepared: Prepared, source: str) -> list[tuple[str, str]]:
    plan = prepared.plan
    encoder = Path(plan.encoder).name if plan.origin == "folder" else plan.encoder
    counts = ", ".join(f"{count:,} {split}" for split, count in plan.examples.items())
    labels = len(prepared.corpus.task.labels)
    task = plan.problem.replace("_", "-") + (f", {labels:,} labels" if labels else "")
    return [
        ("encoder", f"{encoder}, {plan.layers} layers, {plan.head}"),
        ("strategy", plan.strategy),
        ("objective", plan.objective),
        ("task", f"{task}, pairs of texts" if prepared.corpus.task.pair else task),
        ("data", f"{source}: {counts} rows"),
    ]


def _costs(plan: Plan, took: Took, folder: Path) -> list[tuple[str, str]]:
    from nlp_transfer.training.pace import in_words

    model = folder / "model"
    size = sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
    share = plan.trainable / max(1, plan.parameters)
    return [
        ("training", f"in {took.seconds:,.0f} s, {plan.precision} on {plan.processes} × {plan.device}"),
        ("steps", f"{took.steps:,} of {plan.batch_size} examples" if took.steps else "none: the head was solved for"),
        *(("pace", in_words(line)) for line in _lines(folder / PACE)[-1:]),
        ("parameters", f"{plan.trainable:,} of {plan.parameters:,} learned ({share:.2%})"),
        ("saved model", f"{size / 1e6:,.1f} MB"),
    ]


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
