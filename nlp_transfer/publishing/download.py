"""A model of ours from the Hub: its folder on this machine, whose content is checked where it is loaded."""

from __future__ import annotations

from pathlib import Path

from nlp_transfer.data import hub
from nlp_transfer.data.paths import expanded
from nlp_transfer.encoder.source import ADAPTER_WEIGHTS, PATTERNS, RECORD, UNKNOWN, fetch
from nlp_transfer.errors import UserError


def names_model(name: str) -> bool:
    """Return whether a name is ``owner/name`` or ``owner/name@revision`` of the Hub.

    A run that is not where it is looked for, in ``runs/`` or a folder that is there, is not looked for among strangers.
    """
    name = name.partition("@")[0]
    return hub.is_name(name) and not (name.startswith("runs/") or expanded(name).parent.is_dir())


def pull(name: str) -> Path:
    """Fetch a model, or find it in the Hub's cache on this machine.

    Args:
        name: ``owner/name`` or ``owner/name@revision``: a commit, branch or tag.

    Raises:
        UserError: if it cannot be had, or was not made by `nlp-transfer adapt`.
    """
    repository, _, revision = name.partition("@")
    folder = fetch(repository, revision or None, [*PATTERNS, ADAPTER_WEIGHTS, UNKNOWN], called=repository)
    if not (folder / RECORD).is_file():
        raise UserError(
            f"{name} holds no {RECORD}, so nlp_transfer did not make it; adapt it (encoder={name}), or load it with "
            "transformers"
        )
    return folder
