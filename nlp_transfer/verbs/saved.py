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
from nlp_transfer.verbs import VERBS, alone, emit, screen_of_main
from nlp_transfer.verbs.models import refuse_another_model, run_folder

if TYPE_CHECKING:
    from nlp_transfer.settings import Settings


def evaluate(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    """Measure a model: of a run, its ``model/`` folder, or an export that lies in the run's folder."""
    folder, screen = run_folder(words, "evaluate"), screen_of_main()
    from nlp_transfer.artefact.places import run_of

    own = run_of(folder)
    run, folder = (own, own) if own else (run_of(folder.resolve().parent), folder)
    if run is None:
        raise UserError(
            f"{folder} holds no config.yaml: give the folder of a run, as `nlp-transfer adapt` made it; a model alone "
            "does not say which data is its own"
        )
    from nlp_transfer import config
    from nlp_transfer.checks import check
    from nlp_transfer.objectives.settings import ClassifySettings
    from nlp_transfer.settings import ContinualSettings, PretrainingSettings

    trained, settings = (config.compose(str(run / "config.yaml"), words) for words in ([], _as_saved(overrides)))
    refuse_another_model("evaluate", overrides)
    # Nothing learns.
    still = dataclasses.replace(settings, pretraining=PretrainingSettings(), continual=ContinualSettings())
    check(dataclasses.replace(still, objective={"classify": ClassifySettings()}))
    _refuse_limits(trained, settings, overrides)
    if settings.report.output:
        from nlp_transfer.reporting.files import check_target

        check_target(expanded(settings.report.output))
    with screen.busy("loading the model"), permanent_imports():
        from nlp_transfer.evaluation.report import render
        from nlp_transfer.running.measurement import evaluate
    report = evaluate(folder, trained, settings, screen=screen)
    render(report, screen.console)
    if settings.report.output:
        screen.console.print(f"All about these figures: {settings.report.output}", soft_wrap=True)
    emit({"folder": str(folder), "report": report.to_json()}, screen)
    return 0


def _refuse_limits(trained: Settings, settings: Settings, overrides: Sequence[str]) -> None:
    """Refuse to take fewer of the rows that a run knows nothing of: all of them are measured."""
    from nlp_transfer.composing.words import typed_limits
    from nlp_transfer.data.sources import source_of

    if source_of(settings.data) == source_of(trained.data):
        return
    for word in typed_limits(overrides):
        raise UserError(f"{word}: all rows of other data are measured; name a file with fewer")


def export(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    """Write a model as ONNX, OpenVINO or a table, compared with it."""
    alone("export")
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
    screen.console.print(f"\nIt lies in {done.folder}. Next:", soft_wrap=True, style="bold")
    screen.console.print(f"  nlp-transfer predict {name} FILE.csv > labelled.csv", soft_wrap=True)
    if run and (run / "metrics.json").is_file():
        from nlp_transfer.publishing.publication import write_card

        try:
            write_card(run)
        except (OSError, UserError) as error:  # the export is there all the same
            screen.tell(f"the card of {run} does not tell of it: {error}")
    emit({"folder": str(done.folder), **done.to_json()}, screen)
    return 0


def merge(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    """Merge an adapter into its encoder."""
    alone("merge")
    folder, screen = run_folder(words[:1], "merge"), screen_of_main()
    if len(words) != 2:
        raise UserError(f"merge takes {VERBS['merge'][1]}: nlp-transfer merge {shlex.quote(words[0])} FOLDER")
    with screen.busy("starting"), permanent_imports():
        from nlp_transfer.artefact.merge import merge
    with screen.busy("merging"):
        made = merge(folder, expanded(words[1]))
    screen.console.print(f"A whole model lies in {made}.", soft_wrap=True)
    emit({"model": str(made)}, screen)
    return 0


def _as_saved(overrides: Sequence[str]) -> list[str]:
    """Return words by which a model decides as it was saved to, where no other rule is typed; no page is left over.

    Nor are texts read that a run learned from beside its rows.
    """
    typed = {word.lstrip("+").partition("=")[0] for word in overrides}
    rules = [f"decision.{name}" for name in ("threshold", "abstain_below", "risk", "unknown", "coverage")]
    rules += ["report.output", "data.unlabelled"]
    return [*(f"{rule}=null" for rule in rules if rule not in typed), *overrides]
