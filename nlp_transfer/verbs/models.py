"""The verbs that use a saved model: predict, serve, demo and push."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_transfer.errors import UserError
from nlp_transfer.machine.importing import permanent_imports
from nlp_transfer.settings import DATA_FILES, DATA_LIMITS
from nlp_transfer.verbs import alone, emit, one, screen_of_main

if TYPE_CHECKING:
    from nlp_transfer.settings import Settings
    from nlp_transfer.terminal.console import Screen
    from nlp_transfer.verb_settings import HubSettings

_OF_TRAINING = ("encoder", "tokens", "strategy", "objective", "training", "pretraining", "continual")
_ROWS = ("data.embedded", "data.hub", *(f"data.{key}" for key in (*DATA_FILES, *DATA_LIMITS)))


def predict(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    """Label the rows of a file or of standard input."""
    words, overrides = _named_model(words, overrides)
    folder = run_folder(words[:1], "predict")
    one(words, "predict", most=2)
    settings = _settings("predict", overrides)
    from nlp_transfer.predicting.checks import check_predict

    wanted = dataclasses.replace(settings.predict, input=words[1]) if len(words) == 2 else settings.predict
    check_predict(wanted, overwrite=settings.overwrite)
    with permanent_imports():
        from nlp_transfer.predicting.predict import opened, predict_file
        from nlp_transfer.wording import counted
    screen = screen_of_main()
    predictor = opened(folder, settings, tell=screen.tell)
    data, console = settings.data, screen.console
    if wanted.input == "-" and sys.stdin.isatty():
        console.print("reading rows from standard input, until Ctrl-D", style="dim")
    count = predict_file(
        predictor,
        wanted,
        data.columns,
        encoding=data.encoding,
        delimiter=data.delimiter,
        overwrite=settings.overwrite,
        screen=screen,
    )
    console.print(f"{counted(count, 'row')} labelled", style="dim")
    return 0


def serve(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    """Answer over HTTP until it is told to stop."""
    folder, settings, called = _hosted("serve", words, overrides)
    from nlp_transfer.serving.door import serve

    serve(folder, settings, screen_of_main(), called=called)
    return 0


def demo(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    """Show a page in a browser until it is told to stop."""
    folder, settings, called = _hosted("demo", words, overrides)
    from nlp_transfer.demo.door import demo

    demo(folder, settings, screen_of_main(), called=called)
    return 0


def push(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    """Publish a model on the Hub, or list what would be published."""
    alone("push")
    folder = run_folder(words[:1], "push")
    one(words, "push", most=2)
    from nlp_transfer.artefact.places import run_of
    from nlp_transfer.checks import check_hub

    if foreign := [word for word in overrides if not word.startswith("hub.")]:
        raise UserError(f"push takes hub.key=value words; {foreign[0]!r} says nothing of where a model goes")
    wanted = _hub_of(run_of(folder), [*(f"hub.repository={name}" for name in words[1:]), *overrides])
    check_hub(wanted)
    screen = screen_of_main()
    if not arguments.dry_run:
        emit(published(folder, wanted, screen), screen)
        return 0
    from nlp_transfer.publishing.publication import parcel_of

    with screen.busy("loading the model in a fresh process"), parcel_of(folder, wanted, tell=screen.tell) as parcel:
        print(parcel.listing())  # noqa: T201
    return 0


def _hub_of(run: Path | None, words: Sequence[str]) -> HubSettings:
    """Return the `hub` group of key=value words, and for keys that they do not name that of a run."""
    from nlp_transfer import config
    from nlp_transfer.composing.yamlfile import read_yaml

    typed = config.compose(None, words).hub
    if run is None:
        return typed
    named = {word.partition("=")[0].removeprefix("hub.") for word in words}
    theirs = dataclasses.asdict(config.from_plain(read_yaml(run / "config.yaml")).hub)
    return dataclasses.replace(typed, **{key: value for key, value in theirs.items() if key not in named})


def published(folder: Path, settings: HubSettings, screen: Screen, *, finished: bool = False) -> dict[str, Any]:
    """Push a run or a model; return where it is now, for machines."""
    with screen.busy("pushing"), permanent_imports():
        from nlp_transfer.publishing.publication import publish

        pushed = publish(folder, settings, tell=screen.tell, finished=finished)
    what = f"{pushed.changed} files changed" if pushed.changed else "nothing to do, all of it was there"
    screen.console.print(f"pushed to {pushed.url} ({what})", soft_wrap=True, style="bold")
    return {"pushed": pushed.url, "changed": pushed.changed}


def run_folder(words: Sequence[str], verb: str) -> Path:
    """Return the folder that is named by the one word, a run, a model or for some verbs a model of the Hub."""
    name = one(words, verb)
    if name is None:
        raise UserError(f"{verb} needs the folder of a run: nlp-transfer {verb} runs/NAME")
    from nlp_transfer.data.paths import expanded

    folder = expanded(name)
    if folder.is_dir():
        return folder
    from nlp_transfer.publishing.download import names_model, pull

    if verb in ("predict", "serve", "demo") and names_model(name):
        return pull(name)
    meant = f" (did you mean 'runs/{name}'?)" if expanded(f"runs/{name}").is_dir() else ""
    raise UserError(f"{name}: there is no such folder{meant}; finished runs lie under runs/")


def _hosted(verb: str, words: list[str], overrides: list[str]) -> tuple[Path, Settings, str]:
    """Return the model that is to answer others, the settings, and how the model was named."""
    alone(verb)
    words, overrides = _named_model(words, overrides)
    from nlp_transfer.serving.host import check_installed

    check_installed(verb)
    return run_folder(words, verb), _settings(verb, overrides), words[0]


def refuse_another_model(verb: str, overrides: Sequence[str]) -> None:
    """Refuse words of another model or training: who typed them would take the saved one for theirs.

    Raises:
        UserError: naming the first such word.
    """
    for word in overrides:
        key = word.lstrip("+~").partition("=")[0]
        if key.partition(".")[0] in _OF_TRAINING and key != "training.precision":
            raise UserError(f"{word}: the model is the saved one, and {verb} would not read this; take it away")


def _settings(verb: str, overrides: Sequence[str]) -> Settings:
    """Return settings whose groups are checked by which any saved model answers.

    Raises:
        UserError: for a value that cannot be, and for a word of another model, or of rows of a run.
    """
    from nlp_transfer import config
    from nlp_transfer.checks import check_decision, check_evaluation, check_training

    if any(word.startswith("decision.calibrate=") for word in overrides):
        raise UserError("decision.calibrate is for adapt: the calibration of a saved model lies in its weights")
    settings = config.compose(None, overrides)
    refuse_another_model(verb, overrides)
    for word in overrides:
        if word.lstrip("+~").partition("=")[0] in _ROWS:
            file = "; the rows are a word of their own: nlp-transfer predict RUN FILE" if verb == "predict" else ""
            raise UserError(f"{word}: {verb} would not read this; take it away{file}")
    check_training(settings.training)
    check_evaluation(settings.evaluation)
    check_decision(settings.decision)
    return settings


def _named_model(words: Sequence[str], overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return words and overrides with ``model=NAME`` as the first word."""
    named = [word.removeprefix("model=") for word in overrides if word.startswith("model=")]
    return [*named, *words], [word for word in overrides if not word.startswith("model=")]
