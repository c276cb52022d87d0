"""Damage to texts: wrong decoding, leftover HTML and CSV escapes, control characters.

Every kind of damage can be detected and, where nothing has to be guessed, undone.
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
    """Repair a text that was decoded with the wrong encoding (ftfy)."""
    if text.isascii():
        return text
    from ftfy import fix_encoding
    from ftfy.badness import is_bad

    return fix_encoding(text) if is_bad(text) else text


def unescaped(text: str) -> str:
    """Replace HTML entities with their characters, also if they were escaped twice."""
    while (plain := _ENTITY.sub(_character, text)) != text:
        text = plain
    return text


def _character(entity: re.Match[str]) -> str:
    """Return the character of an entity, without control characters; the entity itself if it is invalid."""
    plain = html.unescape(entity[0])
    is_valid = entity[0][1] == "#" or entity[0][1:] in entities.html5
    return without_controls(plain) if is_valid and plain and _LOST not in plain else entity[0]


def unquoted(text: str) -> str:
    """Remove the quotes around a CSV cell, and undouble those within it.

    A quoted text without doubled quotes may be a quotation, and is left alone.
    """
    bare = text.strip()
    if '""' not in bare[1:-1] or not _QUOTED.fullmatch(bare):
        return text
    return bare[1:-1].replace('""', '"')


def without_controls(text: str) -> str:
    """Remove control and byte-order characters, replacing those that separate words with a space; line ends stay."""
    return _BREAK.sub(" ", _CONTROL.sub("", text))


UNDO: Mapping[str, Undo] = {
    "mojibake": unmangled,
    "quoting": unquoted,
    "entity": unescaped,
    "control": without_controls,
}
"""Kind of damage → function that undoes it, in the order of application; a text that it changes is damaged."""
_DETECTED: Mapping[str, Callable[[str], object]] = {
    "escape": _ESCAPE.search,
    "lost_character": lambda text: _LOST in text,
    "markup": _MARKUP.search,
}


def damage(text: str) -> list[str]:
    """Return the kinds of damage in a text."""
    undoable = [kind for kind, undo in UNDO.items() if undo(text) != text]
    return undoable + [kind for kind, detect in _DETECTED.items() if detect(text)]
