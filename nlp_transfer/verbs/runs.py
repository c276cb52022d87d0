"""The verbs that take one recipe and its data: adapt (with --multirun), plan, check, rank and compare."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nlp_transfer.data.paths import expanded
from nlp_transfer.errors import UserError
from nlp_transfer.machine.importing import permanent_imports
from nlp_transfer.machine.launch import is_main
from nlp_transfer.verbs import emit, first_unused, first_word, require_one_process, screen_of_main
from nlp_transfer.verbs.models import push_model

if TYPE_CHECKING:
    from pathlib import Path

    from nlp_transfer.inspection.examine import Examination
    from nlp_transfer.settings import Settings
    from nlp_transfer.terminal.console import Screen

# The groups, and single keys of other groups, that `rank` reads.
_OF_RANKING = ("data", "tokens", "encoder", "evaluation", "cache", "rank", "seed", "training.precision")


def adapt(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    """Adapt an encoder, measure and save it, and push it with hub.push=true."""
    if arguments.multirun:
        return _multirun(arguments, words, overrides)
    settings = _settings(arguments, words, overrides)
    if settings is None:
        return 0
    screen = screen_of_main()
    if settings.hub.push and is_main():
        with screen.busy("checking on the Hub whether the token may write"):
            from nlp_transfer.publishing.upload import check_before_training

            check_before_training(settings.hub, tell=screen.tell)  # before hours of training, not after them
    with screen.busy("reading data"):
        from nlp_transfer.continual.rows import load

        try:
            corpus = load(settings, tell=screen.tell)  # before torch is imported, so that errors appear at once
        except UserError:
            if not settings.continual.used:
                raise
            corpus = None  # a finished run can be read back without its data; any other raises the error again
    with screen.busy("starting"), permanent_imports():
        from nlp_transfer.running.run import adapt
    run = adapt(settings, corpus=corpus, screen=screen)
    from nlp_transfer.evaluation.report import render

    render(run.report, screen.console)
    page = next((f", its report in {path}" for path in run.pages), "")
    screen.console.print(f"\nThe model is in {run.folder / 'model'}{page}. Next:", soft_wrap=True, style="bold")
    for command in (
        f"nlp-transfer predict {shlex.quote(str(run.folder))} FILE.csv > labelled.csv",
        f"nlp-transfer demo {shlex.quote(str(run.folder))}",
        f"nlp-transfer evaluate {shlex.quote(str(run.folder))} data=files data.path=FILE.csv",
        f"nlp-transfer adapt {shlex.quote(str(run.folder / 'config.yaml'))} seed=1",
        f"nlp-transfer push {shlex.quote(str(run.folder))} OWNER/NAME",
    ):
        screen.console.print(f"  {command}", soft_wrap=True)
    result = {"folder": str(run.folder), "model": str(run.folder / "model"), "report": run.report.to_json()}
    try:
        if settings.hub.push and is_main():
            result |= push_model(run.folder, settings.hub, screen, finished=True)
    finally:
        emit(result, screen)
    return 0


def _multirun(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    from nlp_transfer.sweeping import multirun

    recipe = first_word(words, arguments.verb)
    if arguments.cfg:
        raise UserError("--cfg prints one configuration: call it without --multirun")
    values = {word.partition("=")[0]: word.partition("=")[2] for word in overrides}
    if "hub.push" in values and "," not in values.get("hub.repository", ""):
        raise UserError(
            "hub.push with --multirun would push every run over the one before: push the best one when all are done"
        )
    return multirun.show(recipe, overrides)


def check(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    """Look for defects in the data; the exit status is 1 for findings as severe as check.fail_on."""
    require_one_process("check")
    settings = _settings(arguments, words, overrides)
    if settings is None:
        return 0
    from nlp_transfer.inspection.checks import check_examination

    check_examination(settings, overrides)
    screen = screen_of_main()
    from nlp_transfer.inspection.examine import examine
    from nlp_transfer.inspection.mending import check_target
    from nlp_transfer.inspection.show import render

    folder = expanded(settings.check.fix) if settings.check.fix else None
    if folder:
        check_target(folder, settings.data)  # before an examination of minutes, not after it
    examination = examine(settings, screen)
    render(examination, screen.console)
    try:
        _mend(examination, folder, screen)
    finally:
        emit(examination.to_json(), screen)
    return int(examination.fails(settings.check.fail_on))


def _mend(examination: Examination, folder: Path | None, screen: Screen) -> None:
    """Write a corrected copy of the data; without a folder only say whether there is anything to correct."""
    from nlp_transfer.inspection.mending import plan, write

    try:
        mended = plan(examination)
    except UserError as error:
        if folder:
            raise
        screen.console.print(f"check.fix=FOLDER would be refused: {error}", soft_wrap=True)
        return
    if folder:
        write(mended, examination, folder)
        screen.console.print(
            f"{mended.summary()}; read the copy with data=files data.path={shlex.quote(str(folder))}, in UTF-8 "
            "whatever the original was in",
            soft_wrap=True,
        )
        for name in mended.lost:
            screen.tell(f"no training row has the label {name!r} any more")
    elif mended:
        screen.console.print("check.fix=FOLDER writes a copy with the defects corrected that need no decision")


def rank(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    """Order encoders by linear probes on each of their layers."""
    require_one_process("rank")
    from nlp_transfer import config
    from nlp_transfer.artefact.places import model_folder
    from nlp_transfer.checks import check_settings
    from nlp_transfer.composing.shipped import shipped_names

    if not words:
        raise UserError("rank needs encoders: nlp-transfer rank minilm runs/NAME data=files data.path=FILE")
    if repeated := [word for word in words if words.count(word) > 1]:
        raise UserError(f"{repeated[0]!r} is given twice; name every encoder once")
    if named := [word for word in overrides if word.startswith(("encoder=", "encoder.name="))]:
        raise UserError(f"rank takes encoders without a key: write {named[0].partition('=')[2]}")
    if word := first_unused(overrides, _OF_RANKING):
        raise UserError(
            f"{word}: rank trains nothing and does not use this key; remove it (rank uses {', '.join(_OF_RANKING)})"
        )
    encoders = []
    for word in words:
        folder, name = expanded(word), word
        if word not in shipped_names("encoder") and folder.is_dir():
            name = str(model_folder(folder).resolve())
        settings = config.compose(None, [*overrides, f"encoder={name}"])
        encoders.append((word, settings.encoder))
    check_settings(settings)
    screen = screen_of_main()
    from nlp_transfer.ranking.rows import rows_of

    corpus = rows_of(settings, screen)  # before torch is imported, so that errors appear at once
    with screen.busy("starting"), permanent_imports():
        from nlp_transfer.ranking.rank import rank
        from nlp_transfer.ranking.show import render, verdict
    ranking = rank(settings, encoders, corpus, screen)
    render(ranking, screen.console)
    emit({"ranking": [each.to_json() for each in ranking], "verdict": verdict(ranking)}, screen)
    return 0


def compare(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    """Compare strategies and baselines at several numbers of labels."""
    require_one_process("compare")
    recipe, screen = first_word(words, arguments.verb), screen_of_main()
    from nlp_transfer.comparing.design import design_of

    design = design_of(recipe, overrides, screen)  # before torch is imported, so that errors appear at once
    with screen.busy("starting"), permanent_imports():
        from nlp_transfer.comparing.compare import Comparison
        from nlp_transfer.comparing.show import render
    outcome = Comparison(design, screen).run()
    render(outcome, screen.console)
    screen.console.print(f"\nThe report, with charts: {outcome.folder / 'report.html'}", soft_wrap=True)
    screen.console.print(f"The winner: nlp-transfer adapt {shlex.quote(str(outcome.recipe))}", soft_wrap=True)
    emit(outcome.to_json(), screen)
    return 0


def plan(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    """Show what a run would do, up to its first training step."""
    settings = _settings(arguments, words, overrides)
    if settings is None:
        return 0
    screen = screen_of_main()
    with screen.busy("reading data and encoder"):
        from nlp_transfer.continual.rows import load

        corpus = load(settings, tell=screen.tell)  # before torch is imported, so that errors appear at once
        with permanent_imports():
            from nlp_transfer.domains.distance import measure_domain_gap
            from nlp_transfer.running import choosing
            from nlp_transfer.running.fitting import apply_decision_settings
            from nlp_transfer.running.folder import RunFolder
            from nlp_transfer.running.plan import plan_of, render
            from nlp_transfer.running.preparation import prepare
        corpus = apply_decision_settings(corpus, settings.decision)
        settings, reason = choosing.resolve_auto(settings, corpus)
        if reason:
            screen.tell(reason)
        uncached = dataclasses.replace(settings, cache=dataclasses.replace(settings.cache, gib=0.0))
        folder = RunFolder.of(settings, corpus).path
        prepared = prepare(uncached, corpus, folder)
    plan, sample = plan_of(prepared, folder), measure_domain_gap(prepared, screen)
    if sample and sample.gap:
        plan = plan.with_notes(sample.gap.sentences)
    render(plan, screen.console)
    emit(plan.to_json(), screen)
    return 0


def _settings(arguments: argparse.Namespace, words: Sequence[str], overrides: Sequence[str]) -> Settings | None:
    """Return the checked settings of a run, or None after printing them for --cfg."""
    with permanent_imports():
        from nlp_transfer import config

        settings = config.compose(recipe := first_word(words, arguments.verb), overrides)
    if arguments.cfg:
        print(config.to_yaml(settings), end="")  # noqa: T201
        return None
    from nlp_transfer.checks import check_settings
    from nlp_transfer.verbs.relocated import check_not_moved, config_of_run, explaining_relative_names

    of_run = config_of_run(recipe)
    with explaining_relative_names(of_run):
        check_settings(settings)
    if arguments.verb == "adapt":
        check_not_moved(of_run, settings, overrides)
    return settings
