"""The command line: ``nlp-transfer VERB [RECIPE | RUN] [key=value ...]``.

It parses the arguments and calls the function of the verb. Heavy libraries are imported only when a verb needs them:
help and configuration errors appear without importing torch.
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
from nlp_transfer.terminal.process import (
    USER_ERROR,
    check_working_folder,
    destroy_process_group,
    open_streams,
    print_error,
    replace_broken_stderr,
    report_unexpected,
)
from nlp_transfer.verbs import VERBS, first_word, meta, models, runs, saved, tasks
from nlp_transfer.verbs.help import help_of


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status.

    0 for success, 2 for unusable input, 3 for a push that the Hub rejected, 70 for a bug in this package, and 128 + the
    number of the signal that stopped the process.
    """
    for variable in ("HF_HUB_DISABLE_PROGRESS_BARS", "TQDM_DISABLE"):  # we show one progress bar of our own
        os.environ.setdefault(variable, "1")
    # Waiting OpenMP threads spin and so take the core from the thread they wait for when other processes share the
    # machine: a training step took 5 s instead of 2.5 s beside one busy process on two cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    open_streams()
    argv = sys.argv[1:] if argv is None else argv
    if not argv:
        _parser().print_help(sys.stderr)
        return USER_ERROR
    help_verb = next((word for word in argv if word in VERBS), None) if {"-h", "--help"} & set(argv) else None
    arguments = _parser(help_verb).parse_intermixed_args(argv)
    try:
        words, overrides = _split(arguments.words)
        _refuse_unused(arguments, overrides)
        check_working_folder()
        status = _COMMANDS[arguments.verb](arguments, words, overrides)
        sys.stdout.flush()  # so that a closed pipe raises here and not at interpreter shutdown
        return status
    except BrokenPipeError:  # the reader of our output has closed it, as `head` does
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123  # or the interpreter reports it again at shutdown
        return 0
    except UserError as error:
        print_error(str(error), first=is_main())
        return error.status
    except Exception as error:
        return report_unexpected(error, argv)
    except KeyboardInterrupt as interrupt:
        return 128 + getattr(interrupt, "number", signal.SIGINT)  # the convention of shells
    finally:
        destroy_process_group()
        replace_broken_stderr()


class _Parser(argparse.ArgumentParser):
    """A parser whose error messages hide secrets from the command line."""

    def error(self, message: str) -> NoReturn:
        super().error(redacted(message))


def _parser(help_verb: str | None = None) -> argparse.ArgumentParser:
    """Return the parser; its help describes one verb, or all of them if None."""
    parser = _Parser(
        prog="nlp-transfer", **help_of(help_verb)._asdict(), formatter_class=argparse.RawDescriptionHelpFormatter
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
    """Separate names and paths from overrides (``key=value``, ``+key=value``, ``~key``)."""
    if stray := next((word for word in words if word.startswith("=") and not _is_name(word)), None):
        raise UserError(f"{stray!r} has no key before it: write key=value as one word, without spaces around =")
    names = [word for word in words if _is_name(word)]
    return names, [word for word in words if word not in names]


def _is_name(word: str) -> bool:
    """Return whether a word is a name or path and not an override; files may be called a=b and ~draft."""
    key, equals, _ = word.partition("=")
    if not equals and not word.startswith("~"):
        return True
    from nlp_transfer.data.paths import expanded
    from nlp_transfer.settings import Settings

    known = {field.name for field in dataclasses.fields(Settings)}
    task, _, last = key.rpartition(" ")
    if task and last.lstrip("+~").partition(".")[0] in known:  # a task of `multitask` with overrides of its own
        return True
    if key.lstrip("+~").partition(".")[0] in known:
        return False
    return not equals or os.path.exists(expanded(word))  # noqa: PTH110  # pathlib's raises for names that are too long


def _refuse_unused(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Refuse options that the verb does not use, so that no option is silently ignored.

    Raises:
        UserError: naming the option and the verbs that take it.
    """
    options = {
        "--multirun": (arguments.multirun, ("adapt",)),
        "--cfg": (arguments.cfg, ("adapt", "check", "meta", "plan")),
        "--all": (arguments.all, ("cache",)),
        "--dry-run": (arguments.dry_run, ("push",)),
        "key=value words": (
            overrides,
            tuple(verb for verb in VERBS if verb not in ("merge", "ls", "cp", "doctor")),
        ),
    }
    for option, (value, verbs) in options.items():
        if value and arguments.verb not in verbs:
            raise UserError(
                f"{arguments.verb} does not take {option}; {', '.join(verbs)} {'do' if verbs[1:] else 'does'}"
            )


def _ls(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    from nlp_transfer.composing import catalogue

    return catalogue.show(first_word(words, "ls"))


def _cp(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    from nlp_transfer.composing import catalogue

    return catalogue.copy(words)


def _cache(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    from nlp_transfer import config
    from nlp_transfer.cache import listing

    return listing.show(words, config.compose(None, overrides).cache, everything=arguments.all)


def _doctor(arguments: argparse.Namespace, words: list[str], overrides: list[str]) -> int:
    from nlp_transfer.terminal import doctor

    first_word(words, "doctor", most=0)
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
