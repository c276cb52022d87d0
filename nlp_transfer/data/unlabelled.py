"""Read the unlabelled training texts of `data.unlabelled`, as strictly as labelled rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from nlp_transfer.data.columns import find_roles
from nlp_transfer.data.files import read_rows
from nlp_transfer.data.keys import Keys
from nlp_transfer.data.rows import Texts, kept_rows, read_texts
from nlp_transfer.errors import UserError
from nlp_transfer.settings import ColumnSettings, DataSettings

NAME = "unlabelled"


def read_unlabelled(settings: DataSettings, roles: Mapping[str, str], notes: list[str]) -> Texts | None:
    """Return the texts of `data.unlabelled`; None where it names no file.

    Args:
        settings: the `data` group.
        roles: role → column of the training rows. If the file lacks these columns, its own are found by their names.
        notes: receives a sentence for everything that was dropped.

    Raises:
        UserError: with file and line for anything that cannot be read.
    """
    if settings.unlabelled is None:
        return None
    table = read_rows(settings.unlabelled, settings, lines_are_texts=True)
    if not len(table):
        raise UserError(f"data.unlabelled: {table.origin} has no rows")
    text_roles = {role: roles[role] for role in ("text", "text_pair") if role in roles}
    if not set(text_roles.values()) <= set(table.columns):
        chosen = {role: getattr(settings.columns, role) for role in ("text", "text_pair")}
        existing = {role: name if name in ("", *table.columns) else None for role, name in chosen.items()}
        found = find_roles(table, ColumnSettings(**existing, id=""), labelled=False)
        if found.keys() != text_roles.keys():
            each = "two texts" if "text_pair" in text_roles else "one text"
            raise UserError(f"data.unlabelled: {table.origin} must have {each} per row, as the training rows have")
        text_roles = {role: found[role] for role in text_roles}
    texts, pairs = read_texts(table, text_roles)
    kept = kept_rows(table, texts, pairs, settings.empty, text_roles, NAME, notes)
    if "label" in roles and roles["label"] in table.columns:
        notes.append(f"{NAME}: column {roles['label']!r} is not read")
    return Texts(texts, pairs).take(kept)


def measured_among(texts: Texts, measured: Iterable[Keys]) -> str | None:
    """Return a note on how many of the unlabelled texts are also validation or test texts; None if none are.

    Args:
        texts: the unlabelled texts.
        measured: the keys of the validation and test rows, by split.
    """
    keys = texts.keys
    is_first = keys.firsts() == np.arange(len(keys))
    is_measured = np.zeros(len(keys), bool)
    for split_keys in measured:
        is_measured |= keys.among(split_keys)
    count = np.count_nonzero(is_measured & is_first)
    if not count:
        return None
    return (
        f"{NAME}: {count:,} of its texts are measured too: pretraining leaves them out, objectives read them, so "
        "that scores are on texts that were read in training"
    )
