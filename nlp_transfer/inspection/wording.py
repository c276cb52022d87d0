"""What a text says: its letters and digits, however they are written."""

from __future__ import annotations

import re
import unicodedata

_OTHER = re.compile(r"[\W_]+")


def said(text: str) -> str:
    """Return the words of a text, case folded, with single spaces between them and nothing else."""
    return _OTHER.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
