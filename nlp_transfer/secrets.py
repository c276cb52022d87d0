"""Detection and redaction of access tokens and passwords in texts.

A secret is recognised by the format of a service's tokens, by its place in a URL, or as the value of an environment
variable with a name such as API_KEY.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

HIDDEN = "***"
_MIN_CHARACTERS = 8  # of an environment variable's value; shorter values occur in texts by chance
# Lookaheads have bounded repetitions, so that no text takes long.
_FORMATS = re.compile(
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
_SECRET_NAME = re.compile(
    r"(?<!MAX_)(?<!EOS_)(?<!PAD_)(?:TOKEN|API_?KEY|ACCESS_KEY|SECRET(?:_KEY)?|PASSWORD|PASSWD|PASSPHRASE)\Z",
    re.IGNORECASE,
)
_WORDS = re.compile(r"(?:[A-Z]?[a-z]+|[A-Z]+)(?:[ _.-](?:[A-Z]?[a-z]+|[A-Z]+))*")


def looks_secret(text: str) -> bool:
    """Return whether a text contains an access token or a password."""
    return _FORMATS.search(text) is not None or any(value in text for value in _secret_values())


def redacted(text: str) -> str:
    """Return the text with every access token and password replaced by ``***``."""
    for value in sorted(_secret_values(), key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return _FORMATS.sub(HIDDEN, text)


def _secret_values() -> Iterator[str]:
    """Yield the values of environment variables named like a secret, except ordinary words and paths."""
    for name, value in os.environ.items():
        if not _SECRET_NAME.search(name) or len(value := value.strip()) < _MIN_CHARACTERS or _WORDS.fullmatch(value):
            continue
        if os.sep not in value or not os.path.exists(value):  # noqa: PTH110  # pathlib raises for overlong names
            yield value
