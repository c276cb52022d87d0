"""Interpret the cells of one split by the roles of their columns: texts, labels by name, weights, ids, domains.

Every row keeps its place in the source, for messages.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import repeat, starmap
from typing import Any, cast

import numpy as np

from nlp_transfer.data.annotated import refuse_rejected
from nlp_transfer.data.compact import CompactCells
from nlp_transfer.data.keys import Keys
from nlp_transfer.data.labels import Label, is_missing, name_of, number_of, read_labels
from nlp_transfer.data.missing import MISSING
from nlp_transfer.data.sequences import (
    Numbered,
    cells_of,
    concatenated,
    floats_of,
    integers_of,
    interned,
    numbered,
    repeated,
    take,
)
from nlp_transfer.data.table import Table
from nlp_transfer.data.textfile import SURROGATE
from nlp_transfer.errors import UserError, one_of
from nlp_transfer.settings import DataSettings

_SHOWN = 5


@dataclass
class Rows:
    """The usable rows of one split, as sequences of equal length; never modified, since some are table columns.

    Attributes:
        texts, pairs: the texts, unchanged; pairs is None where an example is one text.
        labels: see ``labels.Label``.
        weights: the rows' own weights, 1 without a weight column.
        ids: from the id column, else ``<split>-<row>`` with the row number in the source table, counted from 1.
        domains: None without a domain column.
        keys: see `text_key`; rows with equal keys have the same text.
        table, numbers: the source table, and for each row its index there.
    """

    texts: Sequence[str]
    pairs: Sequence[str] | None
    labels: Sequence[Label]
    weights: Sequence[float]
    ids: Sequence[str]
    domains: Sequence[str] | None
    keys: Keys
    table: Table
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.texts)

    def where(self, row: int) -> str:
        """Return the place of a row in the source, for messages."""
        return self.table.where(self.numbers[row])

    def cells(self, column: str) -> Sequence[Any]:
        """Return the cells of these rows in any column of their table."""
        return take(self.table.columns[column], self.numbers)

    def followed_by(self, other: Rows, ids: str) -> Rows:
        """Return these rows followed by others, whose ids become the prefix `ids` and a number from 1."""
        domains = None
        if self.domains is not None:
            domains = concatenated(self.domains, [""] * len(other) if other.domains is None else other.domains)
        other_numbers = integers_of((len(self.table) + number for number in other.numbers), len(other))
        return Rows(
            texts=concatenated(self.texts, other.texts),
            pairs=None if self.pairs is None or other.pairs is None else concatenated(self.pairs, other.pairs),
            labels=concatenated(self.labels, other.labels),
            weights=concatenated(self.weights, other.weights),
            ids=concatenated(self.ids, numbered(ids, range(len(other)))),
            domains=domains,
            keys=self.keys.followed_by(other.keys),
            table=self.table.followed_by(other.table),
            numbers=concatenated(self.numbers, other_numbers),
        )

    def take(self, rows: Sequence[int]) -> Rows:
        """Return the rows at these indices, in the order given."""
        numbers, ids = take(self.numbers, rows), self.ids
        if isinstance(ids, Numbered) and ids.numbers == self.numbers:
            ids = Numbered(ids.prefix, numbers)  # shares the sequence of numbers
        else:
            ids = take(ids, rows)
        return Rows(
            texts=take(self.texts, rows),
            pairs=None if self.pairs is None else take(self.pairs, rows),
            labels=take(self.labels, rows),
            weights=take(self.weights, rows),
            ids=ids,
            domains=None if self.domains is None else take(self.domains, rows),
            keys=self.keys.take(rows),
            table=self.table,
            numbers=numbers,
        )


@dataclass
class Texts:
    """Texts and, for pairs, the second texts (else None)."""

    texts: Sequence[str]
    pairs: Sequence[str] | None

    @property
    def keys(self) -> Keys:
        """The rows' keys, see `text_key`; equal keys mean the same text."""
        return keys_of(self.texts, self.pairs)

    @property
    def characters(self) -> np.ndarray:
        """Characters of each row, int64; of both texts of a pair."""
        lengths = np.fromiter(map(len, self.texts), np.int64, len(self.texts))
        return lengths if self.pairs is None else lengths + np.fromiter(map(len, self.pairs), np.int64, len(lengths))

    def take(self, rows: Sequence[int]) -> Texts:
        """Return the rows at these indices, in the order given."""
        return Texts(take(self.texts, rows), None if self.pairs is None else take(self.pairs, rows))

    def followed_by(self, others: Texts) -> Texts:
        """Return these texts followed by others; with second texts only if both have them."""
        pairs = None if self.pairs is None or others.pairs is None else concatenated(self.pairs, others.pairs)
        return Texts(concatenated(self.texts, others.texts), pairs)


def whole_texts(texts: Iterable[str], pairs: Iterable[str] | None) -> Iterator[str]:
    """Yield the text of each row; the two texts of a pair are joined by a newline."""
    return iter(texts) if pairs is None else map("\n".join, zip(texts, pairs, strict=True))


def keys_of(texts: Sequence[str], pairs: Sequence[str] | None) -> Keys:
    """Return the rows' keys, see `text_key`."""
    return Keys.of(map(text_key, texts, repeat(None) if pairs is None else pairs), len(texts))


def read_texts(table: Table, roles: Mapping[str, str]) -> tuple[Sequence[str], Sequence[str] | None]:
    """Return the texts and, for pairs, the second texts; a missing cell is an empty text.

    Raises:
        UserError: with the place, for a cell that is not a string, and for a lone surrogate, which cannot be encoded.
    """
    texts = _texts(table, roles["text"])
    return texts, _texts(table, roles["text_pair"]) if "text_pair" in roles else None


def text_fault(cell: Any) -> str | None:
    """Return why a cell is not a valid text, and what to do; None if it is valid."""
    if not isinstance(cell, str):
        return f"{str(cell)[:40]!r} is of type {type(cell).__name__}; write it as text"
    if not cell.isascii() and SURROGATE.search(cell):
        return "half of a surrogate pair, not a character; the text was cut or decoded wrongly where it was written"
    return None


def blank_rows(texts: Sequence[str], pairs: Sequence[str] | None) -> list[int]:
    """Return the rows with a text that has no visible character, see `_is_blank`."""
    return [row for row, text in enumerate(texts) if _is_blank(text) or (pairs is not None and _is_blank(pairs[row]))]


def text_key(text: str, pair: str | None) -> bytes:
    """Return a hash of a text (and its pair) that ignores case, white space and Unicode compatibility forms."""
    joined = "\0".join(_normalised(part) for part in (text, pair) if part is not None)
    return sha256(joined.encode()).digest()


def rows_of(
    table: Table, roles: Mapping[str, str], settings: DataSettings, *, split: str, problem: str, notes: list[str]
) -> Rows:
    """Interpret the cells of a table by the roles of their columns.

    Args:
        table: one split as it was read.
        roles: role → column.
        settings: the `data` group: handling of empty texts, and the separator of labels.
        split: its name, for ids and messages.
        problem: the problem type.
        notes: receives a sentence for everything that was dropped or is not used.

    Raises:
        UserError: with the place, for a missing column and for a cell that is invalid for its column's role.
    """
    for role in ("text", "text_pair", "label"):
        if role in roles and roles[role] not in table.columns:
            hint = f"; rows without labels cannot be measured: leave the {split} split out" * (role == "label")
            raise UserError(
                f"{table.origin} has no column {roles[role]!r}, which is the {role} of the training rows; its columns: "
                f"{', '.join(map(repr, table.columns))}{hint}"
            )
    if not len(table):
        raise UserError(f"{table.origin} has no rows")
    refuse_rejected(table, roles)
    texts, pairs = read_texts(table, roles)
    kept = kept_rows(table, texts, pairs, settings.empty, roles, split, notes)
    if len(kept) < len(table):
        table, texts = table.take(kept), take(texts, kept)
        pairs = None if pairs is None else take(pairs, kept)
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
        ids=_ids(table, roles.get("id"), settings.columns.id is not None, split, notes) or numbered(f"{split}-", kept),
        domains=None if domain is None else interned(map(_domain, domain)),
        keys=keys_of(texts, pairs),
        table=table,
        numbers=range(len(table)),
    )


def _texts(table: Table, column: str) -> Sequence[str]:
    """Return a column as texts; missing cells become empty."""
    cells, has_missing = table.columns[column], False
    for row, cell in enumerate(cells):
        if cell is None or cell is MISSING:
            has_missing = True
        elif fault := text_fault(cell):
            raise UserError(f"{table.where(row, column)}: {fault}")
    if not has_missing:
        return cells
    if isinstance(cells, CompactCells):
        return cells.filled("")
    return ["" if cell is None or cell is MISSING else cell for cell in cells]


def _domain(cell: Any) -> str:
    return "" if is_missing(cell) else name_of(cell) or str(cell)


def _is_blank(text: str) -> bool:
    """Return whether a text has only separators (Z*), control (Cc) and format characters (Cf: zero-width and such)."""
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
) -> Sequence[int]:
    """Return the rows to use: blank ones are refused, dropped or kept according to the setting `empty`."""
    one_of(empty, ("error", "drop", "keep"), "data.empty")
    blank = blank_rows(texts, pairs)
    if not blank:
        return range(len(table))
    names = " or ".join(repr(roles[role]) for role in ("text", "text_pair") if role in roles)
    if empty == "error":
        places = "; ".join(table.where(row) for row in blank[:_SHOWN])
        raise UserError(
            f"{places}{' and more' * (len(blank) > _SHOWN)}: nothing to read in column {names} ({len(blank):,} of "
            f"{len(table):,} rows); correct them, or set data.empty=drop or data.empty=keep"
        )
    if empty == "keep":
        notes.append(f"{split}: {len(blank):,} of {len(table):,} rows have nothing to read and were kept")
        return range(len(table))
    notes.append(f"{split}: {len(blank):,} of {len(table):,} rows have nothing to read and were dropped")
    if len(blank) == len(table):
        raise UserError(f"{table.origin}: no row has anything to read in column {names}")
    dropped = set(blank)
    return integers_of((row for row in range(len(table)) if row not in dropped), len(table) - len(dropped))


def _weights(table: Table, column: str | None, split: str, notes: list[str]) -> Sequence[float]:
    """Return the cells of the weight column as numbers; 1 for every row where there is none."""
    if column is not None and column not in table.columns:
        notes.append(f"{split}: no column {column!r}, so every row weighs 1")
    if column is None or column not in table.columns:
        return repeated(1.0, len(table))

    def weight(row: int, cell: Any) -> float:
        number = number_of(cell)
        if number is None or number < 0:
            raise UserError(
                f"{table.where(row, column)}: the weight {str(cell)[:40]!r} must be a finite number from 0 up"
            )
        return number

    weights = floats_of(starmap(weight, enumerate(table.columns[column])), len(table))
    if not any(weights):
        raise UserError(f"{table.origin}, column {column!r}: every row has the weight 0")
    return weights


def _ids(table: Table, column: str | None, chosen: bool, split: str, notes: list[str]) -> Sequence[str] | None:
    """Return the ids of the id column, or None where they are not usable and rows have to be numbered.

    Raises:
        UserError: for missing or repeated ids in a column that the user chose.
    """
    if column is None or column not in table.columns:
        return None
    ids = cells_of((None if is_missing(cell) else name_of(cell) for cell in table.columns[column]), len(table))
    first = Keys.of((sha256(_bytes(name or "")).digest() for name in ids), len(ids)).firsts()
    bad = next((row for row, name in enumerate(ids) if name is None or first[row] != row), None)
    if bad is None:
        return cast(Sequence[str], ids)
    fault = "no id" if ids[bad] is None else f"the id {ids[bad]!r} of {table.where(int(first[bad]))} again"
    if chosen:
        raise UserError(f"{table.where(bad, column)}: {fault}; ids must be unique, or set data.columns.id=''")
    notes.append(f"{split}: rows are numbered, because column {column!r} is not an id ({table.where(bad)} has {fault})")
    return None


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
