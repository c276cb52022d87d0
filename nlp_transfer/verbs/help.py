"""What `--help` says: of all verbs, or what one takes, with its keys and examples; its lines fit 80 columns.

The keys of a verb's own are read as lines of conf/config.yaml, with their comments: help needs no reader of YAML.
"""

from __future__ import annotations

import re
import textwrap
from importlib import resources
from itertools import pairwise
from typing import NamedTuple

from nlp_transfer.verbs import VERBS

_WIDTH = 79
_BEFORE = 12  # columns before what is said of a verb or a word

_WORDS = {
    "RECIPE": "one of `nlp-transfer ls recipes`, or a .yaml file; none: the embedded data, strategy=auto",
    "ENCODER": "one of `nlp-transfer ls encoders`, a folder, a RUN, or owner/name@revision of the Hub",
    "RUN": "a folder that adapt has made, runs/NAME; predict, serve and demo take owner/name@revision of the Hub too",
    "key=value": "strategy=lora chooses one of `nlp-transfer ls strategies`, training.epochs=3 changes a value",
}
_EXAMPLES = {
    "nlp-transfer adapt": "the embedded data and encoder: a first look",
    "nlp-transfer adapt strategy=lora data=files data.path=tickets.csv": "",
    "nlp-transfer check data=files data.path=tickets.csv": "duplicates, leaks, wrong labels, damage",
    "nlp-transfer rank minilm e5 runs/NAME data=files data.path=tickets.csv": "",
    "nlp-transfer compare data=files data.path=tickets.csv": "which strategy, how many labels",
    "nlp-transfer multitask emotion.csv irony.csv": "several tasks, one encoder",
    "nlp-transfer meta data=files data.path=intents.csv": "an encoder for classes that come later",
    "nlp-transfer plan intent data.path=tickets.csv": "what would happen, nothing trained",
    "nlp-transfer adapt strategy=probe,lora seed=1,2,3 --multirun": "every combination; hydra/sweeper=optuna searches",
    "nlp-transfer predict runs/NAME tickets.csv > labelled.csv": "",
    "nlp-transfer serve runs/NAME serve.port=8000": "label texts over HTTP",
    "nlp-transfer demo runs/NAME": "a page in the browser, to try it",
    "nlp-transfer evaluate runs/NAME data=files data.path=gold.csv": "",
    "nlp-transfer push runs/NAME owner/name": "on the Hub, private; --dry-run lists the files",
    "nlp-transfer export runs/NAME export.format=onnx_int8": "",
    "nlp-transfer merge runs/NAME FOLDER": "a plain model of an adapter that was saved alone",
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
    """The parts of the help, before and behind the options."""

    usage: str
    description: str
    epilog: str


def helping(verb: str | None) -> Help:
    """Return the help of a verb; None: of all."""
    words = "\n".join(["words:", *(_beside(word, said) for word, said in _WORDS.items())])
    if verb is None:
        verbs = "\n".join(["verbs:", *(_beside(name, said) for name, (said, _) in VERBS.items())])
        usage, said = "VERB [RECIPE | RUN] [key=value ...]", "Adapt a pretrained encoder to a text-classification task."
        parts = [said, verbs, words]
    else:
        said, takes = VERBS[verb]
        usage = f"{verb} ..."
        parts = [textwrap.fill(f"{said[0].upper()}{said[1:]}. It takes {takes}.", _WIDTH), words]
    mine = [_example(each, said) for each, said in _EXAMPLES.items() if verb in (None, _verb_of(each))]
    conf = resources.files("nlp_transfer.conf")
    more = (
        "`nlp-transfer VERB --help` lists the keys of a verb's own, `nlp-transfer plan --cfg` prints every key, the "
        f"files in {conf} explain them; those in its launch/ are for `accelerate launch --config_file`."
    )
    ends = [_keys_of(verb) if verb else "", "\n".join(["examples:", *mine]) if mine else ""]
    return Help(
        f"nlp-transfer {usage}",
        "\n\n".join(parts),
        "\n\n".join([*filter(None, ends), textwrap.fill(more, _WIDTH, break_long_words=False, break_on_hyphens=False)]),
    )


def _keys_of(verb: str) -> str:
    """Return the keys that `verb` reads beside the general ones, each with its default and its comment."""
    config = (resources.files("nlp_transfer.conf") / "config.yaml").read_text(encoding="utf-8")
    lines = []
    for group in GROUPS_OF.get(verb, ()):
        _, _, after = config.partition(f"\n{group}:")
        for line in after.split("\n\n")[0].splitlines():
            if found := _KEY.fullmatch(line):
                key, value, comment = found.groups()
                value = value.strip('"')
                lines.append(f"  {group}.{key}={value}")
                lines.append(textwrap.fill(comment, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6))
    return "\n".join([f"keys of {verb}, with their defaults:", *lines]) if lines else ""


def _verb_of(command: str) -> str:
    words = command.split()
    return next(word for before, word in pairwise(words) if before in ("nlp-transfer", "nlp_transfer"))


def _beside(name: str, said: str) -> str:
    first = f"  {name:{_BEFORE - 2}}"
    return textwrap.fill(said, _WIDTH, initial_indent=first, subsequent_indent=" " * _BEFORE, break_on_hyphens=False)


def _example(command: str, said: str) -> str:
    """Return a command and what it is for, beneath it where one line does not hold both."""
    line = f"  {command:42}  {said}".rstrip()
    return line if len(line) <= _WIDTH else f"  {command}\n      {said}"
