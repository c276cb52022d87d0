"""What befell a text on its way: wrong decoding, escapes of HTML and CSV that were left in, control characters.

Each kind knows how to see it and, where nothing has to be guessed, how to undo it.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping
from html import entities

_ENTITY = re.compile(r"&(?:[a-zA-Z][a-zA-Z0-9]{1,31}|#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6});")
_MARKUP = re.compile(r"<(?:br|/?(?:p|div|span|a|b|i|em|strong|li|ul|td|tr|table|font|h[1-6]))(?:\s[^<>]*)?/?>", re.I)
_QUOTED = re.compile(r'"(?:[^"]|"")*"', re.S)
_ESCAPE = re.compile(r"\\(?:n|r|t|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2})|\\\"")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f\u2060\ufeff]")
_BREAK = re.compile("[\x0b\x0c\x1c-\x1f]+")
_LOST = "\ufffd"

Undo = Callable[[str], str]


def unmangled(text: str) -> str:
    """Return a text that was decoded as another encoding than it was written in as it was written (ftfy)."""
    if text.isascii():
        return text
    from ftfy import fix_encoding
    from ftfy.badness import is_bad

    return fix_encoding(text) if is_bad(text) else text


def unescaped(text: str) -> str:
    """Return a text with the characters that HTML entities stand for, also where they were escaped twice."""
    while (plain := _ENTITY.sub(_character, text)) != text:
        text = plain
    return text


def _character(entity: re.Match[str]) -> str:
    """Return what an entity stands for, without control characters; itself where that is no character."""
    plain = html.unescape(entity[0])
    whole = entity[0][1] == "#" or entity[0][1:] in entities.html5
    return without_controls(plain) if whole and plain and _LOST not in plain else entity[0]


def unquoted(text: str) -> str:
    """Return a text without the quotes that CSV puts around a cell, and single where it doubles them.

    A text in quotes that holds no doubled ones may be a quotation, and stays.
    """
    bare = text.strip()
    if '""' not in bare[1:-1] or not _QUOTED.fullmatch(bare):
        return text
    return bare[1:-1].replace('""', '"')


def without_controls(text: str) -> str:
    """Return a text without control and byte-order characters, those that part words as a space; line ends stay."""
    return _BREAK.sub(" ", _CONTROL.sub("", text))


UNDO: Mapping[str, Undo] = {
    "mojibake": unmangled,
    "quoting": unquoted,
    "entity": unescaped,
    "control": without_controls,
}
"""Kind of damage → what undoes it, in the order in which it is undone; a text that it changes is damaged."""
_SEEN: Mapping[str, Callable[[str], object]] = {
    "escape": _ESCAPE.search,
    "lost_character": lambda text: _LOST in text,
    "markup": _MARKUP.search,
}


def damage(text: str) -> list[str]:
    """Return the kinds of damage that a text shows."""
    return [kind for kind, undo in UNDO.items() if undo(text) != text] + [
        kind for kind, seen in _SEEN.items() if seen(text)
    ]
