"""What the command line can be asked to do: the verbs, and what all of them say and show in one way."""

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

# verb -> (help, what it takes)
VERBS: dict[str, tuple[str, str]] = {
    "adapt": ("adapt an encoder to a task, measure it beside floors, save it", "one RECIPE and key=value words"),
    "check": ("look for defects of the data before anything is trained", "one RECIPE and key=value words"),
    "rank": ("order encoders by what they tell of the labels, before any is trained", "ENCODERS and key=value words"),
    "compare": (
        "try strategies at several numbers of labels, beside floors: does transfer help?",
        "one RECIPE and key=value words",
    ),
    "multitask": (
        "adapt one encoder to several tasks at once, a run for each: who helps whom?",
        "a RECIPE or none, FILES and key=value words",
    ),
    "meta": (
        "make an encoder for new classes with few examples, and tell whether it is better at them",
        "one RECIPE and key=value words",
    ),
    "plan": ("show everything up to the first step; train nothing", "one RECIPE and key=value words"),
    "evaluate": ("measure a saved model on data", "one RUN and key=value words"),
    "predict": ("label the rows of a file or of standard input", "RUN, one FILE and key=value words"),
    "push": (
        "publish a saved model on the Hub, with a card of what was measured",
        "RUN, owner/name and hub.key=value words",
    ),
    "serve": ("answer over HTTP with a saved model, until Ctrl-C", "RUN and serve.key=value words"),
    "demo": ("try a saved model on a page in the browser, until Ctrl-C", "RUN and demo.key=value words"),
    "export": ("write a saved model as ONNX, OpenVINO or a table, compared with it", "one RUN and key=value words"),
    "merge": ("merge a saved adapter into its encoder", "RUN and the folder to write"),
    "ls": ("list recipes, strategies, encoders and data sets", "one KIND"),
    "cp": ("copy a shipped recipe into the working folder to edit it", "RECIPE and the file to copy it to"),
    "cache": ("list or remove what runs keep for later ones", "`ls`, `rm ENTRY ...` or `rm --all`"),
    "doctor": ("show versions, devices and how this was launched", "nothing"),
}


def one(words: Sequence[str], verb: str, *, most: int = 1) -> str | None:
    """Return the one word that a verb takes beside key=value words, or None; refuse more."""
    if len(words) > most:
        raise UserError(f"{verb} takes {VERBS[verb][1]}; {words[most]!r} is too much")
    return words[0] if words else None


def unread(words: Sequence[str], read: Sequence[str]) -> str | None:
    """Return the first key=value word that is for other verbs; what nobody reads, composing settings refuses.

    Args:
        words: of the command line.
        read: groups, and keys of others, that the verb reads.
    """
    from nlp_transfer.settings import Settings

    others = {field.name for field in dataclasses.fields(Settings)} - set(read)
    for word in words:
        key = word.lstrip("+~").partition("=")[0]
        if key not in read and key.partition(".")[0] in others:
            return word
    return None


def alone(verb: str) -> None:
    """Refuse to be one of several processes."""
    if world_size() > 1:
        raise UserError(f"{verb} runs in one process: call it without accelerate launch or torchrun")


def screen_of_main() -> Screen:
    """Return the terminal of the first rank; others show nothing."""
    from nlp_transfer.terminal.console import Screen

    return Screen(speaks=is_main())


def emit(plain: dict[str, Any], screen: Screen) -> None:
    """Print the machine-readable result where no person reads it."""
    if is_main() and not (screen.shows and sys.stdout.isatty()):
        print(json.dumps(plain, ensure_ascii=False))  # noqa: T201
