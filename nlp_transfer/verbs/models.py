"""The verbs that use a saved model: predict, serve, demo and push."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_transfer.errors import UserError
from nlp_transfer.machine.importing import permanent_imports
from nlp_transfer.machine.launch import is_main
from nlp_transfer.settings import DATA_FILES, DATA_LIMITS
from nlp_transfer.verbs import emit, first_word, require_one_process, screen_of_main

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
    first_word(words, "predict", most=2)
    settings = _settings("predict", overrides)
    from nlp_transfer.predicting.checks import check_predict

    files = dataclasses.replace(settings.predict, input=words[1]) if len(words) == 2 else settings.predict
    check_predict(files, overwrite=settings.overwrite)
    with permanent_imports():
        from nlp_transfer.predicting.predict import load_predictor, predict_file
        from nlp_transfer.training.signals import interrupted_by_signals
        from nlp_transfer.wording import counted
    screen = screen_of_main()
    predictor = load_predictor(folder, settings, tell=screen.tell)
    data, console = settings.data, screen.console
    if files.input == "-" and sys.stdin.isatty():
        console.print("reading rows from standard input, until Ctrl-D", style="dim")
    with interrupted_by_signals() if is_main() else nullcontext():  # so that no unfinished file is left behind
        count = predict_file(
            predictor,
            files,
            data.columns,
            encoding=data.encoding,
            delimiter=data.delimiter,
            overwrite=settings.overwrite,
            screen=screen,
        )
    console.print(f"{counted(count, 'row')} labelled", style="dim")
    return 0


def serve(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    """Serve a model over HTTP until a signal stops it."""
    folder, settings, called = _hosted("serve", words, overrides)
    from nlp_transfer.serving.serve import serve

    serve(folder, settings, screen_of_main(), called=called)
    return 0


def demo(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    """Serve a demo page for the browser until a signal stops it."""
    folder, settings, called = _hosted("demo", words, overrides)
    from nlp_transfer.demo.demo import demo

    demo(folder, settings, screen_of_main(), called=called)
    return 0


def push(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    """Publish a model on the Hub, or list what would be published."""
    require_one_process("push")
    folder = run_folder(words[:1], "push")
    first_word(words, "push", most=2)
    from nlp_transfer.artefact.places import run_of
    from nlp_transfer.checks import check_hub

    if foreign := [word for word in overrides if not word.startswith("hub.")]:
        raise UserError(f"push takes hub.key=value words only; remove {foreign[0]!r}")
    hub = _hub_of(run_of(folder), [*(f"hub.repository={name}" for name in words[1:]), *overrides])
    check_hub(hub)
    screen = screen_of_main()
    if not arguments.dry_run:
        emit(push_model(folder, hub, screen), screen)
        return 0
    from nlp_transfer.publishing.publication import parcel_of

    with screen.busy("loading the model in a fresh process"), parcel_of(folder, hub, tell=screen.tell) as parcel:
        print(parcel.listing())  # noqa: T201
    return 0


def _hub_of(run: Path | None, words: Sequence[str]) -> HubSettings:
    """Return the `hub` settings from key=value words, and for keys that they do not set from the run."""
    from nlp_transfer import config
    from nlp_transfer.composing.yamlfile import read_yaml

    given = config.compose(None, words).hub
    if run is None:
        return given
    keys = {word.partition("=")[0].removeprefix("hub.") for word in words}
    of_run = dataclasses.asdict(config.from_plain(read_yaml(run / "config.yaml")).hub)
    return dataclasses.replace(given, **{key: value for key, value in of_run.items() if key not in keys})


def push_model(folder: Path, settings: HubSettings, screen: Screen, *, finished: bool = False) -> dict[str, Any]:
    """Push the model of a run, show its URL, and return the same for JSON output."""
    with screen.busy("pushing"), permanent_imports():
        from nlp_transfer.publishing.publication import publish

        pushed = publish(folder, settings, tell=screen.tell, finished=finished)
    changes = f"{pushed.changed} files changed" if pushed.changed else "nothing to do, it is up to date"
    screen.console.print(f"pushed to {pushed.url} ({changes})", soft_wrap=True, style="bold")
    return {"pushed": pushed.url, "changed": pushed.changed}


def run_folder(words: Sequence[str], verb: str) -> Path:
    """Return the folder of the run or model that the only word names; some verbs also take a model of the Hub."""
    name = first_word(words, verb)
    if name is None:
        raise UserError(f"{verb} needs the folder of a run: nlp-transfer {verb} runs/NAME")
    from nlp_transfer.data.paths import expanded

    folder = expanded(name)
    if folder.is_dir():
        return folder
    from nlp_transfer.publishing.download import download_model, names_model

    if verb in ("predict", "serve", "demo") and names_model(name):
        return download_model(name)
    hint = f" (did you mean 'runs/{name}'?)" if expanded(f"runs/{name}").is_dir() else ""
    raise UserError(f"{name}: there is no such folder{hint}; finished runs are in runs/")


def _hosted(verb: str, words: list[str], overrides: list[str]) -> tuple[Path, Settings, str]:
    """Return the folder of the model to serve, the settings, and the name by which the user gave the model."""
    require_one_process(verb)
    words, overrides = _named_model(words, overrides)
    from nlp_transfer.serving.host import check_installed

    check_installed(verb)
    return run_folder(words, verb), _settings(verb, overrides), words[0]


def refuse_another_model(verb: str, overrides: Sequence[str]) -> None:
    """Refuse overrides of model or training settings, which would have no effect on a saved model.

    Raises:
        UserError: naming the first such override.
    """
    for word in overrides:
        key = word.lstrip("+~").partition("=")[0]
        if key.partition(".")[0] in _OF_TRAINING and key != "training.precision":
            raise UserError(f"{word}: {verb} uses the saved model as it is and ignores this key; remove it")


def _settings(verb: str, overrides: Sequence[str]) -> Settings:
    """Return the settings for predicting with a saved model, checked.

    Raises:
        UserError: for an invalid value, and for an override of the model or of the rows of a run.
    """
    from nlp_transfer import config
    from nlp_transfer.checks import check_decision, check_evaluation, check_training

    if any(word.startswith("decision.calibrate=") for word in overrides):
        raise UserError("decision.calibrate is for adapt: the calibration of a saved model is part of its weights")
    settings = config.compose(None, overrides)
    refuse_another_model(verb, overrides)
    for word in overrides:
        if word.lstrip("+~").partition("=")[0] in _ROWS:
            file = "; name the file without a key: nlp-transfer predict RUN FILE" if verb == "predict" else ""
            raise UserError(f"{word}: {verb} does not use this key; remove it{file}")
    check_training(settings.training)
    check_evaluation(settings.evaluation)
    check_decision(settings.decision)
    return settings


def _named_model(words: Sequence[str], overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Move ``model=NAME`` from the overrides to the front of the words."""
    named = [word.removeprefix("model=") for word in overrides if word.startswith("model=")]
    return [*named, *words], [word for word in overrides if not word.startswith("model=")]
