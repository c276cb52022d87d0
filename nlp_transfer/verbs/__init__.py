"""The verbs of the command line, and helpers that they share."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nlp_transfer.errors import UserError
from nlp_transfer.machine.launch import is_main, world_size

if TYPE_CHECKING:
    from nlp_transfer.terminal.console import Screen

# verb -> (help, its arguments)
VERBS: dict[str, tuple[str, str]] = {
    "adapt": ("adapt an encoder to a task, compare it with baselines, save it", "one RECIPE and key=value words"),
    "check": ("look for defects in the data before anything is trained", "one RECIPE and key=value words"),
    "rank": ("order encoders by how well they suit the labels, before any is trained", "ENCODERS and key=value words"),
    "compare": (
        "compare strategies and baselines at several numbers of labels: does transfer help?",
        "one RECIPE and key=value words",
    ),
    "multitask": (
        "adapt one encoder to several tasks at once, with a run for each: which helps which?",
        "a RECIPE or none, FILES and key=value words",
    ),
    "meta": (
        "train an encoder for new classes with few examples, and measure the improvement",
        "one RECIPE and key=value words",
    ),
    "plan": ("show what a run would do, without training", "one RECIPE and key=value words"),
    "evaluate": ("evaluate a saved model on data", "one RUN and key=value words"),
    "predict": ("label the rows of a file or of standard input", "RUN, one FILE and key=value words"),
    "push": (
        "publish a saved model on the Hub, with a model card",
        "RUN, owner/name and hub.key=value words",
    ),
    "serve": ("serve a saved model over HTTP, until Ctrl-C", "RUN and serve.key=value words"),
    "demo": ("serve a demo page of a saved model for the browser, until Ctrl-C", "RUN and demo.key=value words"),
    "export": ("export a saved model to ONNX, OpenVINO or a table, and compare both", "one RUN and key=value words"),
    "merge": ("merge a saved adapter into its encoder", "RUN and the folder to write"),
    "ls": ("list recipes, strategies, encoders and data sets", "one KIND"),
    "cp": ("copy a shipped recipe into the working folder to edit it", "RECIPE and the file to copy it to"),
    "cache": ("list or remove cached results of earlier runs", "`ls`, `rm ENTRY ...` or `rm --all`"),
    "doctor": ("show versions, devices and how this was launched", "nothing"),
}


def first_word(words: Sequence[str], verb: str, *, most: int = 1) -> str | None:
    """Return the first positional argument of a verb, or None.

    Raises:
        UserError: for more than `most` arguments.
    """
    if len(words) > most:
        raise UserError(f"{verb} takes {VERBS[verb][1]}; {words[most]!r} is too much")
    return words[0] if words else None


def first_unused(words: Sequence[str], read: Sequence[str]) -> str | None:
    """Return the first override of a key that exists but that the verb does not read, or None.

    Unknown keys are left to `config.compose`, which refuses them.

    Args:
        words: the key=value words of the command line.
        read: the groups, and single keys of other groups, that the verb reads.
    """
    from nlp_transfer.settings import Settings

    others = {field.name for field in dataclasses.fields(Settings)} - set(read)
    for word in words:
        key = word.lstrip("+~").partition("=")[0]
        if key not in read and key.partition(".")[0] in others:
            return word
    return None


def require_one_process(verb: str) -> None:
    """Refuse to run under a launcher with several processes."""
    if world_size() > 1:
        raise UserError(f"{verb} runs in one process: call it without accelerate launch or torchrun")


def screen_of_main() -> Screen:
    """Return a screen that shows messages on the first rank only."""
    from nlp_transfer.terminal.console import Screen

    return Screen(quiet=not is_main())


def emit(plain: dict[str, Any], screen: Screen) -> None:
    """Print the result as JSON on the first rank, unless standard output is a terminal, where it was shown as text."""
    if is_main() and not (screen.is_interactive and sys.stdout.isatty()):
        print(json.dumps(plain, ensure_ascii=False))  # noqa: T201
