"""A repository of the Hugging Face Hub, of weights or of data: whether it is there, and in one sentence why not.

Knows names, revisions and the client's errors; what is fetched and how it is read is decided elsewhere.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nlp_transfer.errors import UserError

SECONDS = 10  # how long the Hub may be silent before it counts as unreachable
GATED = "is gated: accept its terms on its page on the Hub and log in with `hf auth login`"


def find(kind: str, name: str, revision: str | None) -> Any | None:
    """Return what the Hub says of a repository, its commit as `sha`; None where the Hub cannot be reached.

    Args:
        kind: ``model`` or ``dataset``.
        name: ``owner/name``.
        revision: commit, branch or tag; None: the default branch.
    """
    from huggingface_hub import HfApi
    from huggingface_hub import errors as hub

    try:
        # Asked before anything is fetched because it takes a time limit; a download waits for ever on a silent server.
        return HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=SECONDS)
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError):
        raise
    except failures():
        return None


@contextmanager
def explained(what: str, *, absent: str = "cannot be fetched from the Hub") -> Iterator[None]:
    """Turn the client's errors into one sentence; its own messages are long and may quote requests.

    Args:
        what: how the sentence begins, naming the key and its value.
        absent: how it ends for whatever was not found on this machine and could not be fetched.

    Raises:
        UserError: for every way in which the Hub does not give a repository.
    """
    from huggingface_hub import errors as hub

    try:
        yield
    except UserError:
        raise
    except hub.GatedRepoError:
        reason = GATED
    except hub.RevisionNotFoundError:
        reason = "has no such revision"
    except hub.RepositoryNotFoundError:
        reason = "is no repository of the Hub that can be seen (for a private one: `hf auth login`)"
    except hub.HFValidationError:
        reason = "is no valid Hub name (owner/name)"
    except failures():
        reason = absent
    else:
        return
    raise UserError(f"{what} {reason}")


def said(error: Exception) -> str:
    """Return in brackets what an error is and says, on one line; not what a server says, for it may quote requests."""
    from huggingface_hub import errors as hub

    if isinstance(error, hub.HfHubHTTPError):
        return f"({type(error).__name__})"
    return f"({type(error).__name__}: {textwrap.shorten(str(error), 200, placeholder=' ...')})"


def is_name(text: str) -> bool:
    """Whether a text can be the name of a repository, ``owner/name``."""
    return re.fullmatch(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}", text) is not None


def is_commit(revision: str | None) -> bool:
    """Whether a revision is the full name of a commit, which nobody can move."""
    return revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def failures() -> Any:
    """Return the root of the errors of whatever HTTP library the client is built on, and OSError."""
    from huggingface_hub import errors as hub

    return hub.HfHubHTTPError.__bases__
