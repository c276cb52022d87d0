"""Writing of the reports of runs and evaluations; of local paths they contain names only."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_transfer.data.paths import expanded
from nlp_transfer.reporting.evidence import Evaluation, evidence_of
from nlp_transfer.running.folder import PACE, STEPS

if TYPE_CHECKING:
    from nlp_transfer.data.task import Task
    from nlp_transfer.running.plan import Plan
    from nlp_transfer.running.trained import Trained
    from nlp_transfer.settings import Settings


def write_run_report(
    trained: Trained, evaluation: Evaluation, folder: Path, *, source: str, tell: Callable[[str], None]
) -> None:
    """Write the report of a run. A failure is only reported, so that no training is lost because of it.

    Args:
        trained: the model of the run, and its training.
        evaluation: its figures and the measured rows.
        folder: of the run.
        source: where the rows come from.
        tell: callback for a message if the report cannot be written.
    """
    try:
        from nlp_transfer.reporting.files import write_pages
        from nlp_transfer.reporting.report_page import document_of

        settings, task = trained.prepared.settings, trained.prepared.corpus.task
        document = document_of(
            evidence_of(
                task,
                evaluation,
                settings,
                title=str(settings.name),
                facts=_facts(trained.plan, task, source),
                costs=_costs(trained, folder),
                steps=_lines(folder / STEPS),
            )
        )
        write_pages(document, folder)
    except Exception as error:
        tell(f"the run has no report ({type(error).__name__}: {' '.join(str(error).split())}); all else is there")


def write_evaluation_report(
    folder: Path, task: Task, evaluation: Evaluation, settings: Settings, *, source: str
) -> None:
    """Write the report of an evaluation of a saved model.

    Args:
        folder: of the model or its run.
        task: with the decision rules used.
        evaluation: the figures and the measured rows.
        settings: `report.output` is the file to write.
        source: where the rows come from.

    Raises:
        UserError: if it cannot be written.
    """
    from nlp_transfer.reporting.files import write
    from nlp_transfer.reporting.report_page import document_of
    from nlp_transfer.wording import counted

    name, report = folder.resolve().name, evaluation.report
    rows = source if source == report.split else f"{source}, {report.split}".removeprefix(", ")
    facts = [("model", name), ("data", f"{rows}: {counted(report.examples, 'row')}")]
    evidence = evidence_of(task, evaluation, settings, title=f"{name}, evaluated", facts=facts)
    write(document_of(evidence), expanded(str(settings.report.output)))


def _facts(plan: Plan, task: Task, source: str) -> list[tuple[str, str]]:
    encoder = Path(plan.encoder).name if plan.origin == "folder" else plan.encoder
    counts = ", ".join(f"{count:,} {split}" for split, count in plan.examples.items())
    labels = len(task.labels)
    problem = plan.problem.replace("_", "-") + (f", {labels:,} labels" if labels else "")
    return [
        ("encoder", f"{encoder}, {plan.layers} layers, {plan.head}"),
        ("strategy", plan.strategy),
        ("objective", plan.objective),
        ("task", f"{problem}, pairs of texts" if task.pair else problem),
        ("data", f"{source}: {counts} rows"),
    ]


def _costs(trained: Trained, folder: Path) -> list[tuple[str, str]]:
    from nlp_transfer.training.pace import in_words

    plan, model, steps = trained.plan, folder / "model", trained.trajectory.steps
    size = sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
    share = plan.trainable / max(1, plan.parameters)
    return [
        ("training", f"in {trained.seconds:,.0f} s, {plan.precision} on {plan.processes} × {plan.device}"),
        (
            "steps",
            f"{steps:,} of {plan.batch_size} examples" if steps else "none: the head was fitted without gradient steps",
        ),
        *(("pace", in_words(line)) for line in _lines(folder / PACE)[-1:]),
        ("parameters", f"{plan.trainable:,} of {plan.parameters:,} learned ({share:.2%})"),
        ("saved model", f"{size / 1e6:,.1f} MB"),
    ]


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
