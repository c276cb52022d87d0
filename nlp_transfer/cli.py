"""The command line: ``nlp-transfer VERB [RECIPE | RUN] [key=value ...]``.

It parses, calls one function and shows its result. Nothing heavy is imported before a verb needs it: help and
configuration errors answer without torch.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from nlp_transfer import __version__
from nlp_transfer.ending import USER_ERROR, leave_group, say, unexpected
from nlp_transfer.errors import UserError
from nlp_transfer.importing import for_good
from nlp_transfer.launch import is_main, world_size
from nlp_transfer.secrets import redacted

if TYPE_CHECKING:
    from nlp_transfer.console import Screen
    from nlp_transfer.settings import Settings

EPILOG = """examples:
  nlp-transfer adapt                                   the embedded data and encoder: a first look
  nlp-transfer adapt strategy=lora data=files data.path=tickets.csv
  nlp-transfer plan intent data.path=tickets.csv       what would happen, nothing trained
  nlp-transfer adapt strategy=probe,lora seed=1,2,3 --multirun
  nlp-transfer predict runs/NAME tickets.csv > labelled.csv
  nlp-transfer evaluate runs/NAME data=files data.path=gold.csv
  nlp-transfer push runs/NAME owner/name               on the Hub, private; --dry-run lists the files
  nlp-transfer export runs/NAME export.format=onnx_int8
  accelerate launch -m nlp_transfer adapt RECIPE key=value    on all GPUs
`nlp-transfer plan --cfg` prints every key, the files in {conf} explain them."""

WORDS = """words:
  RECIPE    one of `nlp-transfer ls recipes`, or a .yaml file; none: the embedded data, full fine-tune
  RUN       a folder that adapt has made, runs/NAME; for predict also a model of the Hub, owner/name@revision
  key=value strategy=lora chooses one of `nlp-transfer ls strategies`, training.epochs=3 changes a value"""

# verb -> (help, what it takes)
VERBS: dict[str, tuple[str, str]] = {
    "adapt": ("adapt an encoder to a task, measure it beside floors, save it", "one RECIPE and key=value words"),
    "plan": ("show everything up to the first step; train nothing", "one RECIPE and key=value words"),
    "evaluate": ("measure a saved model on data", "one RUN and key=value words"),
    "predict": ("label the rows of a file or of standard input", "RUN, one FILE and key=value words"),
    "push": (
        "publish a saved model on the Hub, with a card of what was measured",
        "RUN, owner/name and hub.key=value words",
    ),
    "export": ("write a saved model as ONNX or OpenVINO, compared with it", "one RUN and key=value words"),
    "merge": ("merge a saved adapter into its encoder", "RUN and the folder to write"),
    "ls": ("list recipes, strategies, encoders and data sets", "one KIND"),
    "cp": ("copy a shipped recipe into the working folder to edit it", "RECIPE and the file to copy it to"),
    "cache": ("list or remove what runs keep for later ones", "`ls`, `rm ENTRY ...` or `rm --all`"),
    "doctor": ("show versions, devices and how this was launched", "nothing"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit status.

    0; 2 for input that cannot be used; 3 for a push that the Hub did not take; 70 for a mistake of our own; 128 + the
    number of the signal that stopped it.
    """
    for library in ("HF_HUB_DISABLE_PROGRESS_BARS", "TQDM_DISABLE"):  # the terminal belongs to our one bar
        os.environ.setdefault(library, "1")
    # OpenMP threads that spin while they wait take the core from the thread they wait for, wherever others use the
    # machine too: a training step took 5 s instead of 2.5 s beside one busy process on two cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    given = sys.argv[1:] if argv is None else argv
    if not given:
        _parser().print_help(sys.stderr)
        return USER_ERROR
    arguments = _parser().parse_intermixed_args(given)
    try:
        words, overrides = _split(arguments.words)
        _refuse_unused(arguments, overrides)
        status = _COMMANDS[arguments.verb](arguments, words, overrides)
        sys.stdout.flush()  # here, where a closed pipe is still ours to notice
        return status
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123  # or the interpreter complains when it closes it
        return 0
    except UserError as error:
        say(str(error), first=is_main())
        return error.status
    except Exception as error:
        return unexpected(error, given)
    except KeyboardInterrupt as stopped:
        return 128 + getattr(stopped, "number", signal.SIGINT)  # as shells count
    finally:
        leave_group()


class _Parser(argparse.ArgumentParser):
    """A parser that repeats no secret of a command line it cannot read."""

    def error(self, message: str) -> NoReturn:
        super().error(redacted(message))


def _parser() -> argparse.ArgumentParser:
    verbs = "\n".join(f"  {verb:10}{help_}" for verb, (help_, _) in VERBS.items())
    parser = _Parser(
        prog="nlp-transfer",
        usage="nlp-transfer VERB [RECIPE | RUN] [key=value ...]",
        description=f"Adapt a pretrained encoder to a text-classification task.\n\nverbs:\n{verbs}\n\n{WORDS}",
        epilog=EPILOG.format(conf=resources.files("nlp_transfer.conf")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help=argparse.SUPPRESS)
    parser.add_argument("words", nargs="*", metavar="words", help=argparse.SUPPRESS)
    multirun = "one run for every combination of values given with commas"
    parser.add_argument("-m", "--multirun", action="store_true", help=multirun)
    parser.add_argument("--cfg", action="store_true", help="print the composed configuration and stop")
    parser.add_argument("--all", action="store_true", help="with `cache rm`: remove every entry")
    parser.add_argument("--dry-run", action="store_true", help="with `push`: list every file and push nothing")
    parser.add_argument("--version", action="version", version=__version__)
    return parser


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tell names and paths from overrides (``key=value``, ``+key=value``, ``~key``)."""
    names = [word for word in words if _is_name(word)]
    return names, [word for word in words if word not in names]


def _is_name(word: str) -> bool:
    """Return whether a word is no override; files may be called a=b and ~draft."""
    key, equals, _ = word.partition("=")
    if not equals and not word.startswith("~"):
        return True
    from nlp_transfer.data.paths import expanded
    from nlp_transfer.settings import Settings

    if key.lstrip("+~").partition(".")[0] in {field.name for field in dataclasses.fields(Settings)}:
        return False
    return not equals or os.path.exists(expanded(word))  # noqa: PTH110  # pathlib's raises for names that are too long


def _refuse_unused(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Refuse what the verb would not look at: nothing that was asked for is passed over in silence."""
    asked = {
        "--multirun": (arguments.multirun, ("adapt",)),
        "--cfg": (arguments.cfg, ("adapt", "plan")),
        "--all": (arguments.all, ("cache",)),
        "--dry-run": (arguments.dry_run, ("push",)),
        "key=value words": (overrides, ("adapt", "plan", "evaluate", "predict", "push", "export", "cache")),
    }
    for what, (given, verbs) in asked.items():
        if given and arguments.verb not in verbs:
            raise UserError(
                f"{arguments.verb} does not take {what}; {', '.join(verbs)} {'do' if verbs[1:] else 'does'}"
            )


def _one(words: Sequence[str], verb: str, *, most: int = 1) -> str | None:
    if len(words) > most:
        raise UserError(f"{verb} takes {VERBS[verb][1]}; {words[most]!r} is too much")
    return words[0] if words else None


def _settings(arguments: argparse.Namespace, words: Sequence[str], overrides: Sequence[str]) -> Settings | None:
    """Return the checked settings of a run, or None where printing them was all that was asked for."""
    with for_good():
        from nlp_transfer import config

        settings = config.compose(_one(words, arguments.verb), overrides)
    if arguments.cfg:
        print(config.to_yaml(settings), end="")  # noqa: T201
        return None
    from nlp_transfer.checks import check

    check(settings)
    return settings


def _screen() -> Screen:
    from nlp_transfer.console import Screen

    return Screen(speaks=is_main())


def _emit(plain: dict[str, Any], screen: Screen) -> None:
    """Print the machine-readable result where no person reads it."""
    if is_main() and not (screen.shows and sys.stdout.isatty()):
        print(json.dumps(plain, ensure_ascii=False))  # noqa: T201


def _adapt(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    if arguments.multirun:
        return _multirun(arguments, words, overrides)
    settings = _settings(arguments, words, overrides)
    if settings is None:
        return 0
    screen = _screen()
    if settings.hub.push and is_main():
        with screen.busy("asking the Hub whether the token may write"):
            from nlp_transfer.pushing import check_access

            check_access(settings.hub)  # before hours of training, not after them
    with screen.busy("reading data"):
        from nlp_transfer.data.corpus import load_corpus

        corpus = load_corpus(settings.data, seed=settings.seed)  # and says what is wrong there before torch is needed
    with screen.busy("starting"), for_good():
        from nlp_transfer.run import adapt
    run = adapt(settings, corpus=corpus, screen=screen)
    from nlp_transfer.evaluation.report import render

    render(run.report, screen.console)
    screen.console.print(f"\nThe model lies in {run.folder / 'model'}. Next:", soft_wrap=True, style="bold")
    for command in (
        f"nlp-transfer predict {shlex.quote(str(run.folder))} FILE.csv > labelled.csv",
        f"nlp-transfer evaluate {shlex.quote(str(run.folder))} data=files data.path=FILE.csv",
        f"nlp-transfer adapt {shlex.quote(str(run.folder / 'config.yaml'))} strategy=lora",
    ):
        screen.console.print(f"  {command}", soft_wrap=True)
    found = {"folder": str(run.folder), "model": str(run.folder / "model"), "report": run.report.to_json()}
    try:
        if settings.hub.push and is_main():
            found |= _publish(run.folder, settings, screen)
    finally:
        _emit(found, screen)
    return 0


def _multirun(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    from nlp_transfer import sweep

    recipe = _one(words, arguments.verb)
    if arguments.cfg:
        raise UserError("--cfg prints one configuration: call it without --multirun")
    return sweep.show(recipe, overrides)


def _plan(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    settings = _settings(arguments, words, overrides)
    if settings is None:
        return 0
    screen = _screen()
    with screen.busy("reading data and encoder"):
        from nlp_transfer.data.corpus import load_corpus

        corpus = load_corpus(settings.data, seed=settings.seed)  # and says what is wrong there before torch is needed
        with for_good():
            from nlp_transfer.plan import render
            from nlp_transfer.preparation import prepare
            from nlp_transfer.records import RunFolder
        unkept = dataclasses.replace(settings, cache=dataclasses.replace(settings.cache, gib=0.0))
        plan = prepare(unkept, corpus, RunFolder.of(settings, corpus).path).plan
    render(plan, screen.console)
    _emit(plan.to_json(), screen)
    return 0


def _evaluate(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    folder, screen = _run_folder(words, "evaluate"), _screen()
    from nlp_transfer import saved

    _emit(saved.evaluate(folder, overrides, screen), screen)
    return 0


def _predict(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    if world_size() > 1:
        raise UserError("predict runs in one process: call it without accelerate launch or torchrun")
    named = [word.removeprefix("model=") for word in overrides if word.startswith("model=")]
    overrides, words = [word for word in overrides if not word.startswith("model=")], [*named, *words]
    folder = _run_folder(words[:1], "predict")
    if len(words) > 2:
        raise UserError(f"predict takes {VERBS['predict'][1]}; {words[2]!r} is too much")
    from nlp_transfer import config
    from nlp_transfer.checks import check_evaluation, check_predict, check_training

    settings = config.compose(None, overrides)
    wanted = dataclasses.replace(settings.predict, input=words[1]) if len(words) == 2 else settings.predict
    check_predict(wanted)
    check_training(settings.training)
    check_evaluation(settings.evaluation)
    with for_good():
        from nlp_transfer.predict import opened, predict_file
    predictor = opened(folder, precision=settings.training.precision, batch_tokens=settings.evaluation.batch_tokens)
    data, console = settings.data, _screen().console
    if wanted.input == "-" and sys.stdin.isatty():
        console.print("reading rows from standard input, until Ctrl-D", style="dim")
    count = predict_file(predictor, wanted, data.columns, encoding=data.encoding, delimiter=data.delimiter)
    console.print(f"{count:,} rows labelled", style="dim")
    return 0


def _push(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    if world_size() > 1:
        raise UserError("push runs in one process: call it without accelerate launch or torchrun")
    folder = _run_folder(words[:1], "push")
    if len(words) > 2:
        raise UserError(f"push takes {VERBS['push'][1]}; {words[2]!r} is too much")
    from nlp_transfer import config
    from nlp_transfer.checks import check_hub

    settings = config.compose(None, [*(f"hub.repository={name}" for name in words[1:]), *overrides])
    check_hub(settings.hub)
    screen = _screen()
    if not arguments.dry_run:
        _emit(_publish(folder, settings, screen), screen)
        return 0
    from nlp_transfer.publishing import packed

    with screen.busy("loading the model in a fresh process"), packed(folder, settings.hub) as parcel:
        print(parcel.listing())  # noqa: T201
    return 0


def _publish(folder: Path, settings: Settings, screen: Screen) -> dict[str, Any]:
    """Push a run or a model; return where it is now, for machines."""
    with screen.busy("pushing"), for_good():
        from nlp_transfer.publishing import publish

        pushed = publish(folder, settings.hub, tell=screen.tell)
    what = f"{pushed.changed} files changed" if pushed.changed else "nothing to do, all of it was there"
    screen.console.print(f"pushed to {pushed.url} ({what})", soft_wrap=True, style="bold")
    return {"pushed": pushed.url, "changed": pushed.changed}


def _export(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    folder, screen = _run_folder(words, "export"), _screen()
    from nlp_transfer import saved

    _emit(saved.export(folder, overrides, screen), screen)
    return 0


def _merge(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    folder, screen = _run_folder(words[:1], "merge"), _screen()
    if len(words) != 2:
        raise UserError(f"merge takes {VERBS['merge'][1]}: nlp-transfer merge {shlex.quote(words[0])} FOLDER")
    from nlp_transfer import saved

    _emit(saved.merge(folder, words[1], screen), screen)
    return 0


def _run_folder(words: Sequence[str], verb: str) -> Path:
    name = _one(words, verb)
    if name is None:
        raise UserError(f"{verb} needs the folder of a run: nlp-transfer {verb} runs/NAME")
    from nlp_transfer.data.paths import expanded

    folder = expanded(name)
    if folder.is_dir():
        return folder
    from nlp_transfer.pulling import names_model, pull

    if verb == "predict" and names_model(name):
        return pull(name)
    raise UserError(f"{name}: there is no such folder; finished runs lie under runs/")


def _ls(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    from nlp_transfer import catalogue

    return catalogue.show(_one(words, "ls"))


def _cp(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    from nlp_transfer import catalogue

    return catalogue.copy(words)


def _cache(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    from nlp_transfer import cache, config

    return cache.show(words, config.compose(None, overrides).cache, everything=arguments.all)


def _doctor(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    from nlp_transfer import doctor

    _one(words, "doctor", most=0)
    return doctor.show()


_COMMANDS: dict[str, Callable[[argparse.Namespace, list[str], list[str]], int]] = {
    "adapt": _adapt,
    "plan": _plan,
    "evaluate": _evaluate,
    "predict": _predict,
    "push": _push,
    "export": _export,
    "merge": _merge,
    "ls": _ls,
    "cp": _cp,
    "cache": _cache,
    "doctor": _doctor,
}
