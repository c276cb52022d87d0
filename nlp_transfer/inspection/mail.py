"""Detection of mail and newsgroup parts in texts: headers, quoted messages, signatures.

They reveal labels through author and place, and are missing or different where a model is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from nlp_transfer.data.finding import Finding
from nlp_transfer.data.rows import Rows
from nlp_transfer.inspection.texts import texts_of

_MANY = 0.02  # share of the rows; a few may quote by chance, or be about mail
_BEGINNING = 1000  # characters that contain the headers
_HEADERS = (
    r"from|subject|sender|sent|date|organi[sz]ation|lines|newsgroups|reply-to|in-reply-to|references|distribution|"
    r"message-id|article-i\.d\.|nntp-posting-\w+|return-path|received|xref|originator|mime-version|content-type|"
    r"x-[\w-]+"
)
_FIRST = re.compile(rf"\s*(?:{_HEADERS}): ?\S", re.I)
_HEADER = re.compile(rf"(?:\A|(?<=\s))({_HEADERS}):", re.I)  # also if lines were joined
_IDENTIFYING = {"from", "subject", "sender", "message-id", "return-path"}
_QUOTED = re.compile(r"^[ \t]*[|:]?>", re.M)
_ATTRIBUTED = re.compile(r"\b(?:writes|wrote):\s*[|:]?>")
_WROTE = re.compile(r"\b(?:writes|wrote):\s*$")
_AUTHOR = re.compile(r"^In article\b|@")  # in the line that matches `_WROTE`, or the one before
_SIGNATURE = 10  # lines at most


def headed(text: str) -> bool:
    """Return whether a text begins with message headers: at least two, one of which names the message or its author."""
    if not _FIRST.match(text):
        return False
    names = {name.lower() for name in _HEADER.findall(text[:_BEGINNING])}
    return len(names) > 1 and not names.isdisjoint(_IDENTIFYING)


def quoting(text: str) -> bool:
    """Return whether a text quotes another message: with two marked lines, or with an attribution line."""
    if len(_QUOTED.findall(text)) > 1 or _ATTRIBUTED.search(text):
        return True
    lines = text.split("\n")
    return any(
        _WROTE.search(line) and any(map(_AUTHOR.search, lines[max(0, at - 1) : at + 1]))
        for at, line in enumerate(lines)
    )


def signed(text: str) -> bool:
    """Return whether a text ends with a signature, after a line of two hyphens (RFC 3676, 4.3)."""
    lines = text.rstrip().split("\n")
    return any(line.rstrip() == "--" for line in lines[max(1, len(lines) - 1 - _SIGNATURE) : -1])


_PARTS: Mapping[str, Callable[[str], bool]] = {
    "begin with headers such as From: and Subject:": headed,
    "quote the message that they answer": quoting,
    "end with a signature": signed,
}


def mail(splits: Mapping[str, Rows]) -> Iterator[Finding]:
    """Find texts that contain more of a message than its author's words."""
    total = sum(map(len, splits.values()))
    for description, has in _PARTS.items():
        places = [
            (split, row)
            for split, rows in splits.items()
            for row in range(len(rows))
            if any(map(has, texts_of(rows, row)))
        ]
        if len(places) > _MANY * total:
            split, row = places[0]
            yield Finding(
                "mail",
                f"{len(places):,} of {total:,} rows {description}, for example {splits[split].where(row)}",
                tuple(places),
            )
