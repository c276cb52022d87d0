"""The text of `--help`, for all verbs or one, with its keys and examples, in 80 columns.

The keys of a verb and their comments are taken from the lines of conf/config.yaml, without a YAML parser.
"""

from __future__ import annotations

import re
import textwrap
from importlib import resources
from itertools import pairwise
from typing import NamedTuple

from nlp_transfer.verbs import VERBS

_WIDTH = 79
_INDENT = 12  # columns before the description of a verb or word

_WORDS = {
    "RECIPE": "one of `nlp-transfer ls recipes`, or a .yaml file; none: the embedded data, strategy=auto",
    "ENCODER": "one of `nlp-transfer ls encoders`, a folder, a RUN, or owner/name@revision of the Hub",
    "RUN": "a folder written by adapt, runs/NAME; predict, serve and demo take owner/name@revision of the Hub too",
    "key=value": "strategy=lora chooses one of `nlp-transfer ls strategies`, training.epochs=3 changes a value",
}
_EXAMPLES = {
    "nlp-transfer adapt": "the embedded data and encoder: a first look",
    "nlp-transfer adapt strategy=lora data=files data.path=tickets.csv": "",
    "nlp-transfer check data=files data.path=tickets.csv": "duplicates, leaks, wrong labels, damage",
    "nlp-transfer rank minilm e5 runs/NAME data=files data.path=tickets.csv": "",
    "nlp-transfer compare data=files data.path=tickets.csv": "which strategy, how many labels",
    "nlp-transfer multitask emotion.csv irony.csv": "several tasks, one encoder",
    "nlp-transfer meta data=files data.path=intents.csv": "an encoder for classes to come",
    "nlp-transfer plan intent data.path=tickets.csv": "what would happen, nothing trained",
    "nlp-transfer adapt strategy=probe,lora seed=1,2,3 --multirun": "every combination; hydra/sweeper=optuna searches",
    "nlp-transfer predict runs/NAME tickets.csv > labelled.csv": "",
    "nlp-transfer serve runs/NAME serve.port=8000": "label texts over HTTP",
    "nlp-transfer demo runs/NAME": "a page in the browser, to try it",
    "nlp-transfer evaluate runs/NAME data=files data.path=gold.csv": "",
    "nlp-transfer push runs/NAME owner/name": "on the Hub, private; --dry-run lists the files",
    "nlp-transfer export runs/NAME export.format=onnx_int8": "",
    "nlp-transfer merge runs/NAME FOLDER": "a plain model from an adapter saved alone",
    "nlp-transfer cp intent my.yaml": "a recipe of your own",
    "nlp-transfer ls recipes": "",
    "nlp-transfer cache ls": "what is kept, and how large it is",
    "accelerate launch -m nlp_transfer adapt RECIPE key=value": "on all GPUs",
}
# verb -> groups of conf/config.yaml
GROUPS_OF = {
    **{
        verb: (verb,)
        for verb in ("check", "rank", "compare", "multitask", "meta", "predict", "serve", "demo", "export", "cache")
    },
    "evaluate": ("evaluation", "decision", "report"),
    "push": ("hub",),
}
_KEY = re.compile(r" {2}(\w+): (.+?) +# (.+)")


class Help(NamedTuple):
    """The parts of the help text before and after the options."""

    usage: str
    description: str
    epilog: str


def help_of(verb: str | None) -> Help:
    """Return the help of a verb; None: of all verbs."""
    words = "\n".join(["words:", *(_described(word, text) for word, text in _WORDS.items())])
    if verb is None:
        verbs = "\n".join(["verbs:", *(_described(name, text) for name, (text, _) in VERBS.items())])
        usage, text = "VERB [RECIPE | RUN] [key=value ...]", "Adapt a pretrained encoder to a text-classification task."
        parts = [text, verbs, words]
    else:
        text, takes = VERBS[verb]
        usage = f"{verb} ..."
        parts = [textwrap.fill(f"{text[0].upper()}{text[1:]}. It takes {takes}.", _WIDTH), words]
    examples = [_example(command, text) for command, text in _EXAMPLES.items() if verb in (None, _verb_of(command))]
    conf = resources.files("nlp_transfer.conf")
    more = (
        "`nlp-transfer VERB --help` lists the keys of a verb, `nlp-transfer plan --cfg` prints every key, the "
        f"files in {conf} explain them; those in its launch/ are for `accelerate launch --config_file`."
    )
    sections = [_keys_of(verb) if verb else "", "\n".join(["examples:", *examples]) if examples else ""]
    closing = textwrap.fill(more, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return Help(f"nlp-transfer {usage}", "\n\n".join(parts), "\n\n".join([*filter(None, sections), closing]))


def _keys_of(verb: str) -> str:
    """Return the keys of the groups of a verb, each with its default and its comment."""
    config = (resources.files("nlp_transfer.conf") / "config.yaml").read_text(encoding="utf-8")
    lines = []
    for group in GROUPS_OF.get(verb, ()):
        _, _, after = config.partition(f"\n{group}:")
        for line in after.split("\n\n")[0].splitlines():
            if match := _KEY.fullmatch(line):
                key, value, comment = match.groups()
                value = value.strip('"')
                lines.append(f"  {group}.{key}={value}")
                lines.append(textwrap.fill(comment, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6))
    return "\n".join([f"keys of {verb}, with their defaults:", *lines]) if lines else ""


def _verb_of(command: str) -> str:
    words = command.split()
    return next(word for before, word in pairwise(words) if before in ("nlp-transfer", "nlp_transfer"))


def _described(name: str, text: str) -> str:
    """Return a name and its description in two columns."""
    first = f"  {name:{_INDENT - 2}}"
    return textwrap.fill(text, _WIDTH, initial_indent=first, subsequent_indent=" " * _INDENT, break_on_hyphens=False)


def _example(command: str, text: str) -> str:
    """Return a command and its purpose on one line, or on two where they do not fit."""
    line = f"  {command:42}  {text}".rstrip()
    return line if len(line) <= _WIDTH else f"  {command}\n      {text}"
