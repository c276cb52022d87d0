"""key=value words for messages: with the quotes their values need, ready to be pasted into a shell."""

from __future__ import annotations

import re
import shlex

# What the grammar of overrides (Hydra's) reads as something else than the text that stands there; rather too much
# than too little, as quotes do no harm.
_READ_OTHERWISE = re.compile(
    r"""
    [,(]                                                              # several values, a function
    | \\[\\()\[\]{}:=,\ \t]                                           # an escaped character
    | ^\s*[\[{'"]                                                     # a list, keys and values, quotes
    | ^\s*([+-]?(?=[\d_.]*\d)[\d_.]+(e[+-]?[\d_]+)?|[+-]?(inf|nan))\s*$  # a number
    | ^\s*(null|true|false)\s*$
    """,
    re.VERBOSE | re.IGNORECASE,
)


def quoted(value: str) -> str:
    """Return a text in double quotes, as the grammar of overrides reads it back unchanged.

    A backslash stands for itself there, except before a quote.
    """
    inner = re.sub(r'(\\*)"', r"\1\1\\" + '"', value)
    return '"' + re.sub(r"(\\+)\Z", r"\1\1", inner) + '"'


def typed(key: str, value: str) -> str:
    """Return key=value as one types it in a shell, for example ``'data.delimiter=;'``."""
    return shlex.quote(f"{key}={quoted(value) if _READ_OTHERWISE.search(value) else value}")
