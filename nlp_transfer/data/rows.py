"""One split as cleaned rows: texts that are text, labels by name, weights, ids; every row knows where it was read.

Here a cell gets its meaning from its column's role. This file knows no label set and no arrays.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nlp_transfer.data.labels import Label, is_missing, name_of, number_of, read_labels
from nlp_transfer.data.table import MISSING, Table
from nlp_transfer.errors import UserError, one_of
from nlp_transfer.settings import DataSettings

_SHOWN = 5
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass
class Rows:
    """The usable rows of one split, all lists of one length.

    Attributes:
        texts, pairs: the texts, unchanged; pairs None where an example is one text.
        labels: see ``labels.Label``.
        weights: the rows' own weights, 1 without a weight column.
        ids: from the id column, else ``<split>-<row>`` with the row number of the table it was read from, from 1.
        domains: None without a domain column.
        keys: what makes two rows the same text, see `text_key`.
        table, numbers: the table the rows were read from, and for each its row there.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: list[Label]
    weights: list[float]
    ids: list[str]
    domains: list[str] | None
    keys: list[bytes]
    table: Table
    numbers: list[int]

    def __len__(self) -> int:
        return len(self.texts)

    def where(self, row: int) -> str:
        """Return the place a row was read from."""
        return self.table.where(self.numbers[row])

    def cells(self, column: str) -> list[Any]:
        """Return the cells of these rows in a column of their table, whatever its role."""
        cells = self.table.columns[column]
        return [cells[number] for number in self.numbers]

    def followed_by(self, other: Rows, ids: str) -> Rows:
        """Return these rows, and behind them others, numbered from 1 with `ids` before the number."""
        domains = None
        if self.domains is not None:
            domains = self.domains + ([""] * len(other) if other.domains is None else other.domains)
        return Rows(
            texts=self.texts + other.texts,
            pairs=None if self.pairs is None or other.pairs is None else self.pairs + other.pairs,
            labels=self.labels + other.labels,
            weights=self.weights + other.weights,
            ids=self.ids + [f"{ids}{number + 1}" for number in range(len(other))],
            domains=domains,
            keys=self.keys + other.keys,
            table=self.table.followed_by(other.table),
            numbers=self.numbers + [len(self.table) + number for number in other.numbers],
        )

    def take(self, rows: Sequence[int]) -> Rows:
        """Return some of the rows, in the order given."""
        return Rows(
            texts=[self.texts[row] for row in rows],
            pairs=None if self.pairs is None else [self.pairs[row] for row in rows],
            labels=[self.labels[row] for row in rows],
            weights=[self.weights[row] for row in rows],
            ids=[self.ids[row] for row in rows],
            domains=None if self.domains is None else [self.domains[row] for row in rows],
            keys=[self.keys[row] for row in rows],
            table=self.table,
            numbers=[self.numbers[row] for row in rows],
        )


@dataclass
class Texts:
    """Texts, and the second ones of pairs, or None."""

    texts: Sequence[str]
    pairs: Sequence[str] | None


def read_texts(table: Table, roles: Mapping[str, str]) -> tuple[list[str], list[str] | None]:
    """Return the texts and, for pairs, the second texts; a missing one is an empty text.

    Raises:
        UserError: with the place, for a cell that is not text, and for a lone surrogate, which no encoding can hold.
    """
    texts = _texts(table, roles["text"])
    return texts, _texts(table, roles["text_pair"]) if "text_pair" in roles else None


def blank_rows(texts: Sequence[str], pairs: Sequence[str] | None) -> list[int]:
    """Return the rows of which a text has nothing to read: only white space, control and zero-width characters."""
    return [row for row, text in enumerate(texts) if _is_blank(text) or (pairs is not None and _is_blank(pairs[row]))]


def text_key(text: str, pair: str | None) -> bytes:
    """Return a hash of a text (and its pair) that case, white space and Unicode compatibility forms do not change."""
    joined = "\0".join(_normalised(part) for part in (text, pair) if part is not None)
    return hashlib.sha256(joined.encode()).digest()


def rows_of(
    table: Table, roles: Mapping[str, str], settings: DataSettings, *, split: str, problem: str, notes: list[str]
) -> Rows:
    """Give the cells of a table their meaning.

    Args:
        table: one split as it was read.
        roles: role → column.
        settings: the `data` group: what to do with empty texts, and the separator of labels.
        split: its name, for ids and messages.
        problem: the problem type.
        notes: gets a sentence for everything that was dropped or is not used.

    Raises:
        UserError: with the place, for a column that is not there and for a cell that cannot have its column's role.
    """
    for role in ("text", "text_pair", "label"):
        if role in roles and roles[role] not in table.columns:
            raise UserError(f"{table.origin} has no column {roles[role]!r}, which is the {role} of the training rows")
    if not len(table):
        raise UserError(f"{table.origin} has no rows")
    texts, pairs = read_texts(table, roles)
    kept = kept_rows(table, texts, pairs, settings.empty, roles, split, notes)
    if len(kept) < len(table):
        table, texts = table.take(kept), [texts[row] for row in kept]
        pairs = None if pairs is None else [pairs[row] for row in kept]
    column = roles["label"]
    domain = table.columns.get(roles.get("domain", ""))
    return Rows(
        texts=texts,
        pairs=pairs,
        labels=read_labels(
            table.columns[column],
            problem=problem,
            separator=settings.label_separator,
            where=lambda row: table.where(row, column),
        ),
        weights=_weights(table, roles.get("weight"), split, notes),
        ids=_ids(table, roles.get("id"), settings.columns.id is not None, split, notes)
        or [f"{split}-{row + 1}" for row in kept],
        domains=None if domain is None else ["" if is_missing(cell) else name_of(cell) or str(cell) for cell in domain],
        keys=[text_key(text, None if pairs is None else pairs[row]) for row, text in enumerate(texts)],
        table=table,
        numbers=list(range(len(table))),
    )


def _texts(table: Table, column: str) -> list[str]:
    """Return a column as texts."""
    texts = []
    for row, cell in enumerate(table.columns[column]):
        if cell is None or cell is MISSING:
            cell = ""
        if not isinstance(cell, str):
            raise UserError(
                f"{table.where(row, column)}: {str(cell)[:40]!r} is of type {type(cell).__name__}; write it as text"
            )
        if not cell.isascii() and _SURROGATE.search(cell):
            raise UserError(
                f"{table.where(row, column)}: half of a surrogate pair, which is no character; the text was cut or "
                "decoded wrongly where it was written"
            )
        texts.append(cell)
    return texts


def _is_blank(text: str) -> bool:
    """Whether a text has only separators (Z*), control (Cc) and format characters (Cf: zero width, direction marks)."""
    for character in text:
        category = unicodedata.category(character)
        if category[0] != "Z" and category not in ("Cc", "Cf"):
            return False
    return True


def _normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def kept_rows(
    table: Table,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    empty: str,
    roles: Mapping[str, str],
    split: str,
    notes: list[str],
) -> list[int]:
    """Return the rows to use under the setting `empty`."""
    one_of(empty, ("error", "drop", "keep"), "data.empty")
    blank = blank_rows(texts, pairs)
    if not blank:
        return list(range(len(table)))
    names = " or ".join(repr(roles[role]) for role in ("text", "text_pair") if role in roles)
    if empty == "error":
        places = "; ".join(table.where(row) for row in blank[:_SHOWN])
        raise UserError(
            f"{places}{' and more' * (len(blank) > _SHOWN)}: nothing to read in column {names} ({len(blank):,} of "
            f"{len(table):,} rows); correct them, or set data.empty=drop or data.empty=keep"
        )
    if empty == "keep":
        notes.append(f"{split}: {len(blank):,} of {len(table):,} rows have nothing to read and were kept")
        return list(range(len(table)))
    notes.append(f"{split}: {len(blank):,} of {len(table):,} rows have nothing to read and were dropped")
    if len(blank) == len(table):
        raise UserError(f"{table.origin}: no row has anything to read in column {names}")
    dropped = set(blank)
    return [row for row in range(len(table)) if row not in dropped]


def _weights(table: Table, column: str | None, split: str, notes: list[str]) -> list[float]:
    """Return the rows' own weights."""
    if column is None:
        return [1.0] * len(table)
    if column not in table.columns:
        notes.append(f"{split}: no column {column!r}, so every row weighs 1")
        return [1.0] * len(table)
    weights = []
    for row, cell in enumerate(table.columns[column]):
        weight = number_of(cell)
        if weight is None or weight < 0:
            raise UserError(
                f"{table.where(row, column)}: the weight {str(cell)[:40]!r} must be a finite number from 0 up"
            )
        weights.append(weight)
    if not any(weights):
        raise UserError(f"{table.origin}, column {column!r}: every row has the weight 0")
    return weights


def _ids(table: Table, column: str | None, chosen: bool, split: str, notes: list[str]) -> list[str] | None:
    """Return the ids of the id column, or None where rows have to be numbered."""
    if column is None or column not in table.columns:
        return None
    cells = table.columns[column]
    ids = [None if is_missing(cell) else name_of(cell) for cell in cells]
    first: dict[str | None, int] = {None: -1}
    bad = next((row for row, name in enumerate(ids) if first.setdefault(name, row) != row), None)
    if bad is None:
        return [str(name) for name in ids]
    what = "no id" if ids[bad] is None else f"the id {ids[bad]!r} of {table.where(first[ids[bad]])} again"
    if chosen:
        raise UserError(f"{table.where(bad, column)}: {what}; ids must be unique, or set data.columns.id=''")
    notes.append(f"{split}: rows are numbered, because column {column!r} is no id ({table.where(bad)} has {what})")
    return None
