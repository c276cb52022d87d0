"""Access tokens and passwords: whether a text holds one, and the text without it.

One is told by the form in which a service writes its tokens, by its place in a URL, or because it is the value of an
environment variable named after one. It knows neither where texts come from nor where they are shown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

HIDDEN = "***"
_SHORTEST = 8  # characters of an environment variable's value; shorter ones occur in texts by chance
# Bounded repetitions, so that no text takes long.
_FORMS = re.compile(
    r"""
    (?<![A-Za-z0-9])(?:
        # Hugging Face, GitHub, GitLab
        hf_[A-Za-z0-9]{30,} | api_org_[A-Za-z0-9]{30,}
      | gh[opsur]_[A-Za-z0-9]{30,} | github_pat_\w{30,} | glpat-[\w-]{20,}
        # OpenAI and Anthropic: letters of both cases and digits, unlike a name such as sk-tickets2024
      | sk-[\w-]{0,100}?(?=\w{0,100}[0-9])(?=\w{0,100}[a-z])(?=\w{0,100}[A-Z])[A-Za-z0-9]{20,}[\w-]*
        # Groq, Stripe, Replicate, NVIDIA, Docker, Slack
      | (?:gsk|sk_live|r8|nvapi|dckr_pat)[_-](?=[\w-]{0,100}[0-9])[\w-]{24,} | xox[abeprs]-[\w-]{10,}
        # Amazon, Google
      | A[KS]IA(?=[A-Z]{0,16}[0-9])[A-Z0-9]{16}(?![A-Za-z0-9]) | AIza[\w-]{35}
        # package indexes, JSON web tokens
      | npm_[A-Za-z0-9]{30,} | pypi-[\w-]{50,} | eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]+
    )
    | (?<=://)[^\s/:@]*:[^\s/@]+(?=@)                                   # user:password@ in a URL
    | -----BEGIN[A-Z ]{0,40}PRIVATE[ ]KEY-----[^-]*
    """,
    re.VERBOSE,
)
_NAMED = re.compile(
    r"(?<!MAX_)(?<!EOS_)(?<!PAD_)(?:TOKEN|API_?KEY|ACCESS_KEY|SECRET(?:_KEY)?|PASSWORD|PASSWD|PASSPHRASE)\Z",
    re.IGNORECASE,
)
_WORDS = re.compile(r"(?:[A-Z]?[a-z]+|[A-Z]+)(?:[ _.-](?:[A-Z]?[a-z]+|[A-Z]+))*")


def looks_secret(text: str) -> bool:
    """Return whether a text holds an access token or a password."""
    return _FORMS.search(text) is not None or any(value in text for value in _values())


def redacted(text: str) -> str:
    """Return a text with ``***`` in the place of every access token and password in it."""
    for value in sorted(_values(), key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return _FORMS.sub(HIDDEN, text)


def _values() -> Iterator[str]:
    """Yield the values of environment variables that are named after a secret; not ordinary words, nor paths."""
    for name, value in os.environ.items():
        if not _NAMED.search(name) or len(value := value.strip()) < _SHORTEST or _WORDS.fullmatch(value):
            continue
        if os.sep not in value or not os.path.exists(value):  # noqa: PTH110  # pathlib's raises for what is too long
            yield value
