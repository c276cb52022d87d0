"""Texts without labels that a run learns from beside its rows: read as strictly as these."""

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
        roles: role → column of the training rows. Its columns may have other names, where these are known ones, also
            where those of the training rows were chosen.
        notes: gets a sentence for everything that was dropped.

    Raises:
        UserError: with file and line for what cannot be read.
    """
    if settings.unlabelled is None:
        return None
    table = read_rows(settings.unlabelled, settings, lines_are_texts=True)
    if not len(table):
        raise UserError(f"data.unlabelled: {table.origin} has no rows")
    same = {role: roles[role] for role in ("text", "text_pair") if role in roles}
    if not set(same.values()) <= set(table.columns):
        chosen = {role: getattr(settings.columns, role) for role in ("text", "text_pair")}
        there = {role: name if name in ("", *table.columns) else None for role, name in chosen.items()}
        found = find_roles(table, ColumnSettings(**there, id=""), labelled=False)
        if found.keys() != same.keys():
            each = "two texts" if "text_pair" in same else "one text"
            raise UserError(f"data.unlabelled: {table.origin} must have {each} a row, as the training rows have")
        same = {role: found[role] for role in same}
    texts, pairs = read_texts(table, same)
    kept = kept_rows(table, texts, pairs, settings.empty, same, NAME, notes)
    if "label" in roles and roles["label"] in table.columns:
        notes.append(f"{NAME}: column {roles['label']!r} is not read")
    return Texts(texts, pairs).take(kept)


def measured_among(texts: Texts, measured: Iterable[Keys]) -> str | None:
    """Return a sentence on how many of the texts are measured rows as well; None where none is.

    Args:
        texts: without labels.
        measured: the keys of the rows, split by split.
    """
    keys = texts.keys
    distinct = keys.firsts() == np.arange(len(keys))
    known = np.zeros(len(keys), bool)
    for each in measured:
        known |= keys.among(each)
    both = np.count_nonzero(known & distinct)
    if not both:
        return None
    return (
        f"{NAME}: {both:,} of its texts are measured rows too: pretraining leaves them out; of a term "
        "that reads them the figures are of texts that were read"
    )
