"""The verbs that measure or convert a saved model: evaluate, export and merge."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nlp_transfer.data.paths import expanded
from nlp_transfer.errors import UserError
from nlp_transfer.machine.importing import permanent_imports
from nlp_transfer.verbs import VERBS, emit, require_one_process, screen_of_main
from nlp_transfer.verbs.models import refuse_another_model, run_folder

if TYPE_CHECKING:
    from nlp_transfer.settings import Settings


def evaluate(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    """Measure the model of a run: its folder, its ``model/`` folder, or an export inside the run's folder."""
    folder, screen = run_folder(words, "evaluate"), screen_of_main()
    from nlp_transfer.artefact.places import run_of

    run = run_of(folder)
    if run is not None:
        folder = run
    else:
        run = run_of(folder.resolve().parent)  # an export
    if run is None:
        raise UserError(
            f"{folder} holds no config.yaml: give the folder of a run, as `nlp-transfer adapt` wrote it; a model alone "
            "does not say which data it was trained on"
        )
    from nlp_transfer import config
    from nlp_transfer.checks import check_settings
    from nlp_transfer.objectives.settings import ClassifySettings
    from nlp_transfer.settings import ContinualSettings, PretrainingSettings
    from nlp_transfer.verbs.relocated import explaining_relative_names

    trained, settings = (config.compose(str(run / "config.yaml"), words) for words in ([], _as_saved(overrides)))
    refuse_another_model("evaluate", overrides)
    # Settings of the training need no check: nothing is trained here.
    untrained = dataclasses.replace(settings, pretraining=PretrainingSettings(), continual=ContinualSettings())
    with explaining_relative_names(run / "config.yaml"):
        check_settings(dataclasses.replace(untrained, objective={"classify": ClassifySettings()}))
    _refuse_limits(trained, settings, overrides)
    if settings.report.output:
        from nlp_transfer.reporting.files import check_target

        check_target(expanded(settings.report.output))
    with screen.busy("loading the model"), permanent_imports():
        from nlp_transfer.evaluation.report import render
        from nlp_transfer.running.measurement import evaluate
    with explaining_relative_names(run / "config.yaml"):
        report = evaluate(folder, trained, settings, screen=screen)
    render(report, screen.console)
    if settings.report.output:
        screen.console.print(f"The full report: {settings.report.output}", soft_wrap=True)
    emit({"folder": str(folder), "report": report.to_json()}, screen)
    return 0


def _refuse_limits(trained: Settings, settings: Settings, overrides: Sequence[str]) -> None:
    """Refuse row limits for data other than the run's own, of which all rows are measured."""
    from nlp_transfer.composing.words import typed_limits
    from nlp_transfer.data.sources import source_of

    if source_of(settings.data) == source_of(trained.data):
        return
    for word in typed_limits(overrides):
        raise UserError(f"{word}: all rows of other data are measured; give a file with fewer rows")


def export(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    """Export a model as ONNX, OpenVINO or a table, and compare it with the original."""
    require_one_process("export")
    folder, screen = run_folder(words, "export"), screen_of_main()
    from nlp_transfer import config
    from nlp_transfer.artefact.places import run_of
    from nlp_transfer.checks import check_decision
    from nlp_transfer.exporting.formats import check_export

    run = run_of(folder)
    settings = config.compose(str(run / "config.yaml") if run else None, _as_saved(overrides))
    refuse_another_model("export", overrides)
    check_export(settings.export)
    check_decision(settings.decision)
    with screen.busy("starting"), permanent_imports():
        from nlp_transfer.exporting.export import export
        from nlp_transfer.exporting.fidelity import render
    done = export(folder, settings, screen=screen)
    render(done.fidelity, screen.console, title=done.format)
    for note in done.notes:
        screen.tell(note)
    name = shlex.quote(str(done.folder))
    screen.console.print(f"\nIt is in {done.folder}. Next:", soft_wrap=True, style="bold")
    screen.console.print(f"  nlp-transfer predict {name} FILE.csv > labelled.csv", soft_wrap=True)
    if run and (run / "metrics.json").is_file():
        from nlp_transfer.publishing.publication import write_card

        try:
            write_card(run)
        except (OSError, UserError) as error:  # the export itself succeeded
            screen.tell(f"the model card of {run} does not mention the export: {error}")
    emit({"folder": str(done.folder), **done.to_json()}, screen)
    return 0


def merge(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    """Merge an adapter into its encoder."""
    require_one_process("merge")
    folder, screen = run_folder(words[:1], "merge"), screen_of_main()
    if len(words) != 2:
        raise UserError(f"merge takes {VERBS['merge'][1]}: nlp-transfer merge {shlex.quote(words[0])} FOLDER")
    with screen.busy("starting"), permanent_imports():
        from nlp_transfer.artefact.merge import merge
    with screen.busy("merging"):
        made = merge(folder, expanded(words[1]))
    screen.console.print(f"The merged model is in {made}.", soft_wrap=True)
    emit({"model": str(made)}, screen)
    return 0


def _as_saved(overrides: Sequence[str]) -> list[str]:
    """Return the overrides, preceded by ones that reset what the run's configuration sets for its training.

    Decision rules are reset to null, which means those that are saved with the model; no report is written and no
    unlabelled texts are read, unless the overrides ask for them.
    """
    given = {word.lstrip("+").partition("=")[0] for word in overrides}
    reset = [f"decision.{name}" for name in ("threshold", "abstain_below", "risk", "unknown", "coverage")]
    reset += ["report.output", "data.unlabelled"]
    return [*(f"{key}=null" for key in reset if key not in given), *overrides]
