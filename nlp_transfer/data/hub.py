"""Look up a model or dataset repository on the Hugging Face Hub, and explain the client's errors in one sentence."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nlp_transfer.errors import UserError

SECONDS = 10  # timeout after which the Hub counts as unreachable
GATED = "is gated: accept its terms on its page on the Hub and log in with `hf auth login`"


def find(kind: str, name: str, revision: str | None) -> Any | None:
    """Return the Hub's information on a repository, its commit as `sha`; None if the Hub cannot be reached.

    Args:
        kind: ``model`` or ``dataset``.
        name: ``owner/name``.
        revision: commit, branch or tag; None: the default branch.
    """
    from huggingface_hub import HfApi
    from huggingface_hub import errors as hub

    try:
        # Called before any download because it takes a timeout; a download waits for ever on a silent server.
        return HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=SECONDS)
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError):
        raise
    except client_errors():
        return None


@contextmanager
def explain_errors(what: str, *, absent: str = "cannot be fetched from the Hub") -> Iterator[None]:
    """Turn the client's errors into a one-sentence UserError; its own messages are long and may quote requests.

    Args:
        what: beginning of the sentence, naming the key and its value.
        absent: end of the sentence if the repository is not cached and cannot be fetched.

    Raises:
        UserError: for every error of the client.
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
        reason = "is not a repository on the Hub, or it is private and needs `hf auth login`"
    except hub.HFValidationError:
        reason = "is not a valid Hub name (owner/name)"
    except client_errors():
        reason = absent
    else:
        return
    raise UserError(f"{what} {reason}")


def describe_error(error: Exception) -> str:
    """Return an error's type and message in brackets, on one line; not a server's message, which may quote requests."""
    from huggingface_hub import errors as hub

    if isinstance(error, hub.HfHubHTTPError):
        return f"({type(error).__name__})"
    return f"({type(error).__name__}: {textwrap.shorten(str(error), 200, placeholder=' ...')})"


def is_name(text: str) -> bool:
    """Return whether a text is a valid repository name, ``owner/name``."""
    return re.fullmatch(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}", text) is not None


def is_commit(revision: str | None) -> bool:
    """Return whether a revision is a full commit hash, which, unlike a branch or tag, always means the same files."""
    return revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def client_errors() -> Any:
    """Return the base exceptions of the HTTP library the client is built on, and OSError."""
    from huggingface_hub import errors as hub

    return hub.HfHubHTTPError.__bases__
