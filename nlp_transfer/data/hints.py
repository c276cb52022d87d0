"""key=value overrides for messages, quoted so that they can be pasted into a shell."""

from __future__ import annotations

import re
import shlex

# Values that Hydra's override grammar would not read as the literal string. Errs on the side of quoting.
_NEEDS_QUOTES = re.compile(
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
    """Return a string in double quotes so that Hydra's override grammar reads it back unchanged.

    A backslash is literal there, except before a quote.
    """
    inner = re.sub(r'(\\*)"', r"\1\1\\" + '"', value)
    return '"' + re.sub(r"(\\+)\Z", r"\1\1", inner) + '"'


def shell_word(key: str, value: str) -> str:
    """Return key=value as one types it in a shell, for example ``'data.delimiter=;'``."""
    return shlex.quote(f"{key}={quoted(value) if _NEEDS_QUOTES.search(value) else value}")
