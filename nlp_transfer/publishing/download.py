"""Download a model of ours from the Hub; its files are checked when they are loaded."""

from __future__ import annotations

from pathlib import Path

from nlp_transfer.data import hub
from nlp_transfer.data.paths import expanded
from nlp_transfer.encoder.source import ADAPTER_WEIGHTS, PATTERNS, RECORD, UNKNOWN, fetch
from nlp_transfer.errors import UserError


def names_model(name: str) -> bool:
    """Return whether a name is ``owner/name`` or ``owner/name@revision`` on the Hub.

    A missing path in ``runs/`` or in an existing folder is a mistyped run, and is not looked up on the Hub.
    """
    name = name.partition("@")[0]
    return hub.is_name(name) and not (name.startswith("runs/") or expanded(name).parent.is_dir())


def download_model(name: str) -> Path:
    """Download a model, or find it in the local cache of the Hub; return its folder.

    Args:
        name: ``owner/name`` or ``owner/name@revision``, where the revision is a commit, branch or tag.

    Raises:
        UserError: if it is not available, or was not made by `nlp-transfer adapt`.
    """
    repository, _, revision = name.partition("@")
    folder = fetch(repository, revision or None, [*PATTERNS, ADAPTER_WEIGHTS, UNKNOWN], called=repository)
    if not (folder / RECORD).is_file():
        raise UserError(
            f"{name} has no {RECORD}, so nlp_transfer did not make it; adapt it (encoder={name}), or load it with "
            "transformers"
        )
    return folder
