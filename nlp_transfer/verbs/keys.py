"""The keys of a verb's own, with their comments in conf/: read as lines, for help answers without a reader of YAML."""

from __future__ import annotations

import re
import textwrap
from importlib import resources

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
_WIDTH = 79


def help_of(verb: str) -> str:
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
