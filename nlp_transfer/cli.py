"""The command line: ``nlp-transfer VERB [RECIPE | RUN] [key=value ...]``.

It parses, calls one function and shows its result. Nothing heavy is imported before a verb needs it: help and
configuration errors answer without torch.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from nlp_transfer import __version__
from nlp_transfer.errors import UserError
from nlp_transfer.machine.launch import is_main
from nlp_transfer.secrets import redacted
from nlp_transfer.terminal.ending import USER_ERROR, check_folder, leave_group, leave_log, open_streams, say, unexpected
from nlp_transfer.verbs import VERBS, meta, models, one, runs, saved, tasks
from nlp_transfer.verbs.help import helping


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
    open_streams()
    given = sys.argv[1:] if argv is None else argv
    if not given:
        _parser().print_help(sys.stderr)
        return USER_ERROR
    asked = next((word for word in given if word in VERBS), None) if {"-h", "--help"} & set(given) else None
    arguments = _parser(asked).parse_intermixed_args(given)
    try:
        words, overrides = _split(arguments.words)
        _refuse_unused(arguments, overrides)
        check_folder()
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
        leave_log()


class _Parser(argparse.ArgumentParser):
    """A parser that repeats no secret of a command line it cannot read."""

    def error(self, message: str) -> NoReturn:
        super().error(redacted(message))


def _parser(asked: str | None = None) -> argparse.ArgumentParser:
    """Return the parser; its help is of the verb that is asked about."""
    parser = _Parser(
        prog="nlp-transfer", **helping(asked)._asdict(), formatter_class=argparse.RawDescriptionHelpFormatter
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
    if stray := next((word for word in words if word.startswith("=") and not _is_name(word)), None):
        raise UserError(f"{stray!r} stands alone: key=value is one word, without spaces around =")
    names = [word for word in words if _is_name(word)]
    return names, [word for word in words if word not in names]


def _is_name(word: str) -> bool:
    """Return whether a word is no override; files may be called a=b and ~draft."""
    key, equals, _ = word.partition("=")
    if not equals and not word.startswith("~"):
        return True
    from nlp_transfer.data.paths import expanded
    from nlp_transfer.settings import Settings

    known = {field.name for field in dataclasses.fields(Settings)}
    task, _, own = key.rpartition(" ")
    if task and own.lstrip("+~").partition(".")[0] in known:  # it may have words of its own
        return True
    if key.lstrip("+~").partition(".")[0] in known:
        return False
    return not equals or os.path.exists(expanded(word))  # noqa: PTH110  # pathlib's raises for names that are too long


def _refuse_unused(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Refuse what the verb would not look at: nothing that was asked for is passed over in silence."""
    asked = {
        "--multirun": (arguments.multirun, ("adapt",)),
        "--cfg": (arguments.cfg, ("adapt", "check", "meta", "plan")),
        "--all": (arguments.all, ("cache",)),
        "--dry-run": (arguments.dry_run, ("push",)),
        "key=value words": (
            overrides,
            tuple(verb for verb in VERBS if verb not in ("merge", "ls", "cp", "doctor")),
        ),
    }
    for what, (given, verbs) in asked.items():
        if given and arguments.verb not in verbs:
            raise UserError(
                f"{arguments.verb} does not take {what}; {', '.join(verbs)} {'do' if verbs[1:] else 'does'}"
            )


def _ls(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    from nlp_transfer.composing import catalogue

    return catalogue.show(one(words, "ls"))


def _cp(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    from nlp_transfer.composing import catalogue

    return catalogue.copy(words)


def _cache(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    from nlp_transfer import config
    from nlp_transfer.cache import listing

    return listing.show(words, config.compose(None, overrides).cache, everything=arguments.all)


def _doctor(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    from nlp_transfer.terminal import doctor

    one(words, "doctor", most=0)
    return doctor.show()


_COMMANDS: dict[str, Callable[[argparse.Namespace, list[str], list[str]], int]] = {
    "adapt": runs.adapt,
    "check": runs.check,
    "rank": runs.rank,
    "compare": runs.compare,
    "multitask": tasks.multitask,
    "meta": meta.meta,
    "plan": runs.plan,
    "evaluate": saved.evaluate,
    "predict": models.predict,
    "serve": models.serve,
    "demo": models.demo,
    "push": models.push,
    "export": saved.export,
    "merge": saved.merge,
    "ls": _ls,
    "cp": _cp,
    "cache": _cache,
    "doctor": _doctor,
}
