"""The exception for unusable input, independent of where it is shown, and helpers that check values."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from nlp_transfer.secrets import redacted

_MAX_CHARACTERS = 4000  # of a message, which may quote a value of millions
_LINE_BREAKS = re.compile(r"\s*[\r\n\u2028\u2029]\s*")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # quoted values must not send escape sequences to a terminal


class UserError(ValueError):
    """Unusable input: a configuration value, a file, a row, a folder.

    The message names the file, line, key or value and says what to do. The command line prints it without a traceback
    and exits with status 2; in Python it is an ordinary ``ValueError``. The message is always a single line, with
    access tokens and passwords hidden.

    Attributes:
        status: the exit status of the command line.
    """

    status = 2

    def __init__(self, message: str) -> None:
        message = _LINE_BREAKS.sub(" ", redacted(message).strip())
        message = _CONTROLS.sub(lambda match: f"\\x{ord(match[0]):02x}", message)
        if len(message) > _MAX_CHARACTERS:
            message = f"{message[: _MAX_CHARACTERS // 2]} ... {message[-_MAX_CHARACTERS // 2 :]}"
        super().__init__(message)


class PushFailed(UserError):
    """The Hub rejected a push; the local files are unchanged. Exit status 3."""

    status = 3


@contextmanager
def about(subject: str) -> Iterator[None]:
    """Prefix the message of a UserError that the block raises with its subject.

    Raises:
        UserError: the error of the block, with the prefix.
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"{subject}: {error}") from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if the message is empty."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__).rstrip(".")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the closest known word, or an empty string."""
    words = list(known)
    close = [other for other in words if other.casefold() == word.casefold()]
    close = close or difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def close_key(key: str, known: Sequence[str]) -> str:
    """Return `` (did you mean 'x'?)`` for an unknown dotted key, or an empty string.

    Candidates are the closest key of the same group, then keys of the same name in other groups, `strategy` and
    `training` first.
    """
    group, _, name = key.rpartition(".")
    parts = {each: each.rpartition(".") for each in known if each != "strategy.name"}
    siblings = {own_name: each for each, (own_group, _, own_name) in parts.items() if own_group == group}
    if not siblings:
        return did_you_mean(key, parts)
    close = [siblings[sibling] for sibling in difflib.get_close_matches(name, siblings, n=1)]
    namesakes = [each for each, (*_, own_name) in parts.items() if own_name == name]
    close += sorted(namesakes, key=lambda each: not each.startswith(("strategy.", "training.")))
    return f" (did you mean {close[0]!r}?)" if close else ""


def one_of(value: str, known: Iterable[str], key: str) -> str:
    """Return `value` if it is known.

    Raises:
        UserError: naming the key, the value and the known alternatives.
    """
    known = list(known)
    if value not in known:
        raise UserError(
            f"{key}={value!r} is not known{did_you_mean(str(value), known)}; choose from: {', '.join(known)}"
        )
    return value


def at_least(values: object, prefix: str, least: float, *keys: str) -> None:
    """Check that numbers are at least `least`; None passes.

    Args:
        values: a group of settings.
        prefix: of its keys, for example ``training.``.
        least: the smallest allowed value.
        keys: the attributes of `values` to check.

    Raises:
        UserError: naming the key and the value.
    """
    _check_each(values, prefix, keys, lambda value: value >= least, f"be at least {least}")


def positive(values: object, prefix: str, *keys: str) -> None:
    """Check that numbers are above 0; see `at_least`."""
    _check_each(values, prefix, keys, lambda value: value > 0, "be positive")


def below_one(values: object, prefix: str, *keys: str) -> None:
    """Check that numbers lie in [0, 1); see `at_least`."""
    _check_each(values, prefix, keys, lambda value: 0 <= value < 1, "lie in [0, 1)")


def _check_each(values: object, prefix: str, keys: Iterable[str], is_valid: Callable[[float], bool], must: str) -> None:
    for key in keys:
        value = getattr(values, key)
        if value is not None and not is_valid(value):
            raise UserError(f"{prefix}{key}={value} must {must}")
