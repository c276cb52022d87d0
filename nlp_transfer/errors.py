"""The one exception a user's input can cause; it knows nothing of where it is shown."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from nlp_transfer.secrets import redacted

_LONGEST = 4000  # characters of a message; a value that is quoted may have millions
_BREAKS = re.compile(r"\s*[\r\n\u2028\u2029]\s*")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # what is quoted must not steer a terminal


class UserError(ValueError):
    """Input that cannot be used: a configuration value, a file, a row, a folder.

    The message names the file, line, key or value and says what to do. The command line prints it without a traceback
    and exits with status 2; from Python it is an ordinary ``ValueError``. It is one line, whatever it quotes, and
    access tokens and passwords are hidden in it.

    Attributes:
        status: of the command line that ends with it.
    """

    status = 2

    def __init__(self, message: str) -> None:
        message = _BREAKS.sub(" ", redacted(message).strip())
        message = _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", message)
        if len(message) > _LONGEST:
            message = f"{message[: _LONGEST // 2]} ... {message[-_LONGEST // 2 :]}"
        super().__init__(message)


class PushFailed(UserError):
    """The Hub did not take what was pushed; what lies on this machine is as it was. Exit status 3."""

    status = 3


@contextmanager
def about(what: str) -> Iterator[None]:
    """Say first what it is that the block refuses.

    Raises:
        UserError: of the block, with that before it.
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from error


def first_line(error: BaseException) -> str:
    """Return what an error says in its first line; of one that says nothing its type."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__).rstrip(".")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the closest known word, or an empty string."""
    words = list(known)
    close = [other for other in words if other.casefold() == word.casefold()]
    close = close or difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def close_key(key: str, known: Sequence[str]) -> str:
    """Return a question after the key that may be meant: one of the same group, or of the same name in another.

    Of several of the same name that is the one of the training itself.
    """
    group, _, last = key.rpartition(".")
    parts = {each: each.rpartition(".") for each in known if each != "strategy.name"}
    beside = {name: each for each, (own, _, name) in parts.items() if own == group}
    if not beside:
        return did_you_mean(key, parts)
    close = [beside[name] for name in difflib.get_close_matches(last, beside, n=1)]
    same = [each for each, (*_, name) in parts.items() if name == last]
    close += sorted(same, key=lambda each: not each.startswith(("strategy.", "training.")))
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
    """Check that numbers are not below the least, but for those that are not set.

    Args:
        values: a group of settings.
        prefix: of its keys, for example ``training.``.
        least: that they may be.
        keys: of the numbers in the group.

    Raises:
        UserError: naming the key and the value.
    """
    _check_each(values, prefix, keys, lambda value: value >= least, f"be at least {least}")


def positive(values: object, prefix: str, *keys: str) -> None:
    """Check that numbers are above 0; see `at_least`."""
    _check_each(values, prefix, keys, lambda value: value > 0, "be positive")


def below_one(values: object, prefix: str, *keys: str) -> None:
    """Check that numbers are shares, less than all; see `at_least`."""
    _check_each(values, prefix, keys, lambda value: 0 <= value < 1, "lie in [0, 1)")


def _check_each(values: object, prefix: str, keys: Iterable[str], fits: Callable[[float], bool], must: str) -> None:
    for key in keys:
        value = getattr(values, key)
        if value is not None and not fits(value):
            raise UserError(f"{prefix}{key}={value} must {must}")
