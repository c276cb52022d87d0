"""The verbs of one recipe and its data: adapt, with --multirun, plan, check, rank and compare."""

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
from nlp_transfer.verbs import alone, emit, one, screen_of_main, unread
from nlp_transfer.verbs.models import published

if TYPE_CHECKING:
    from pathlib import Path

    from nlp_transfer.inspection.examine import Examination
    from nlp_transfer.settings import Settings
    from nlp_transfer.terminal.console import Screen

# What a ranking reads: groups, and keys of others.
_OF_RANKING = ("data", "tokens", "encoder", "evaluation", "cache", "rank", "seed", "training.precision")


def adapt(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    """Adapt an encoder, measure and save it, and push it if that is wanted."""
    if arguments.multirun:
        return _multirun(arguments, words, overrides)
    settings = _settings(arguments, words, overrides)
    if settings is None:
        return 0
    screen = screen_of_main()
    if settings.hub.push and is_main():
        with screen.busy("asking the Hub whether the token may write"):
            from nlp_transfer.publishing.upload import check_before_training

            check_before_training(settings.hub, tell=screen.tell)  # before hours of training, not after them
    with screen.busy("reading data"):
        from nlp_transfer.continual.rows import load

        try:
            corpus = load(settings, tell=screen.tell)  # and says what is wrong there before torch is needed
        except UserError:
            if not settings.continual.used:
                raise
            corpus = None  # a finished run is read back all the same, and any other says it again
    with screen.busy("starting"), permanent_imports():
        from nlp_transfer.running.run import adapt
    run = adapt(settings, corpus=corpus, screen=screen)
    from nlp_transfer.evaluation.report import render

    render(run.report, screen.console)
    page = next((f", all about its figures in {path}" for path in run.pages), "")
    screen.console.print(f"\nThe model lies in {run.folder / 'model'}{page}. Next:", soft_wrap=True, style="bold")
    for command in (
        f"nlp-transfer predict {shlex.quote(str(run.folder))} FILE.csv > labelled.csv",
        f"nlp-transfer demo {shlex.quote(str(run.folder))}",
        f"nlp-transfer evaluate {shlex.quote(str(run.folder))} data=files data.path=FILE.csv",
        f"nlp-transfer adapt {shlex.quote(str(run.folder / 'config.yaml'))} seed=1",
        f"nlp-transfer push {shlex.quote(str(run.folder))} OWNER/NAME",
    ):
        screen.console.print(f"  {command}", soft_wrap=True)
    found = {"folder": str(run.folder), "model": str(run.folder / "model"), "report": run.report.to_json()}
    try:
        if settings.hub.push and is_main():
            found |= published(run.folder, settings.hub, screen, finished=True)
    finally:
        emit(found, screen)
    return 0


def _multirun(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    from nlp_transfer.sweeping import door

    recipe = one(words, arguments.verb)
    if arguments.cfg:
        raise UserError("--cfg prints one configuration: call it without --multirun")
    typed = {word.partition("=")[0]: word.partition("=")[2] for word in overrides}
    if "hub.push" in typed and "," not in typed.get("hub.repository", ""):
        raise UserError(
            "hub.push with --multirun would push every run over the one before: push the best one when all are done"
        )
    return door.show(recipe, overrides)


def check(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    """Look for defects of the data; the exit status says whether there are bad ones."""
    alone("check")
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
        check_target(folder, settings.data)  # before minutes of looking, not after them
    found = examine(settings, screen)
    render(found, screen.console)
    try:
        _mend(found, folder, screen)
    finally:
        emit(found.to_json(), screen)
    return int(found.fails(settings.check.fail_on))


def _mend(found: Examination, folder: Path | None, screen: Screen) -> None:
    """Write a copy in which is mended what was found; without a folder tell whether there is anything to mend."""
    from nlp_transfer.inspection.mending import plan, write

    try:
        mended = plan(found)
    except UserError as error:
        if folder:
            raise
        screen.console.print(f"check.fix=FOLDER would be refused: {error}", soft_wrap=True)
        return
    if folder:
        write(mended, found, folder)
        screen.console.print(
            f"{mended.summary()}; read the copy with data=files data.path={shlex.quote(str(folder))}, in UTF-8 "
            "whatever the original was in",
            soft_wrap=True,
        )
        for name in mended.lost:
            screen.tell(f"no training row has the label {name!r} any more")
    elif mended:
        screen.console.print("check.fix=FOLDER writes a copy in which is mended what nobody has to decide")


def rank(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    """Order encoders by what a probe on each of their layers finds."""
    alone("rank")
    from nlp_transfer import config
    from nlp_transfer.artefact.places import model_folder
    from nlp_transfer.checks import check
    from nlp_transfer.composing.shipped import shipped_names

    if not words:
        raise UserError("rank needs encoders: nlp-transfer rank minilm runs/NAME data=files data.path=FILE")
    if twice := [word for word in words if words.count(word) > 1]:
        raise UserError(f"{twice[0]!r} is given twice; name every encoder once")
    if named := [word for word in overrides if word.startswith(("encoder=", "encoder.name="))]:
        raise UserError(f"rank takes encoders as words of their own: write {named[0].partition('=')[2]}")
    if word := unread(overrides, _OF_RANKING):
        raise UserError(
            f"{word}: rank trains nothing and would not read it; take it away (rank reads {', '.join(_OF_RANKING)})"
        )
    encoders = []
    for word in words:
        folder, name = expanded(word), word
        if word not in shipped_names("encoder") and folder.is_dir():
            name = str(model_folder(folder).resolve())
        settings = config.compose(None, [*overrides, f"encoder={name}"])
        encoders.append((word, settings.encoder))
    check(settings)
    screen = screen_of_main()
    from nlp_transfer.ranking.rows import rows_of

    corpus = rows_of(settings, screen)  # and says what is wrong there before torch is needed
    with screen.busy("starting"), permanent_imports():
        from nlp_transfer.ranking.rank import rank
        from nlp_transfer.ranking.show import render, verdict
    found = rank(settings, encoders, corpus, screen)
    render(found, screen.console)
    emit({"ranking": [each.to_json() for each in found], "verdict": verdict(found)}, screen)
    return 0


def compare(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    """Compare strategies and floors at several numbers of labels."""
    alone("compare")
    recipe, screen = one(words, arguments.verb), screen_of_main()
    from nlp_transfer.comparing.design import design_of

    design = design_of(recipe, overrides, screen)  # and says what is wrong there before torch is needed
    with screen.busy("starting"), permanent_imports():
        from nlp_transfer.comparing.compare import Comparison
        from nlp_transfer.comparing.show import render
    outcome = Comparison(design, screen).run()
    render(outcome, screen.console)
    screen.console.print(f"\nWith pictures: {outcome.folder / 'report.html'}", soft_wrap=True)
    screen.console.print(f"The winner: nlp-transfer adapt {shlex.quote(str(outcome.recipe))}", soft_wrap=True)
    emit(outcome.to_json(), screen)
    return 0


def plan(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    """Show everything up to the first step."""
    settings = _settings(arguments, words, overrides)
    if settings is None:
        return 0
    screen = screen_of_main()
    with screen.busy("reading data and encoder"):
        from nlp_transfer.continual.rows import load

        corpus = load(settings, tell=screen.tell)  # and says what is wrong there before torch is needed
        with permanent_imports():
            from nlp_transfer.decision.fitting import deciding
            from nlp_transfer.domains.distance import tell_domains_apart
            from nlp_transfer.running import choosing
            from nlp_transfer.running.folder import RunFolder
            from nlp_transfer.running.plan import render
            from nlp_transfer.running.preparation import prepare
        corpus = deciding(corpus, settings.decision)
        settings, why = choosing.resolve_auto(settings, corpus)
        if why:
            screen.tell(why)
        unkept = dataclasses.replace(settings, cache=dataclasses.replace(settings.cache, gib=0.0))
        prepared = prepare(unkept, corpus, RunFolder.of(settings, corpus).path)
    tell_domains_apart(prepared, screen)
    render(prepared.plan, screen.console)
    emit(prepared.plan.to_json(), screen)
    return 0


def _settings(arguments: argparse.Namespace, words: Sequence[str], overrides: Sequence[str]) -> Settings | None:
    """Return the checked settings of a run, or None where printing them was all that was asked for."""
    with permanent_imports():
        from nlp_transfer import config

        settings = config.compose(one(words, arguments.verb), overrides)
    if arguments.cfg:
        print(config.to_yaml(settings), end="")  # noqa: T201
        return None
    from nlp_transfer.checks import check

    check(settings)
    return settings
