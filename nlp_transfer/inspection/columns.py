"""Columns and the order of rows: identifiers instead of texts or in two splits, sorted files, groups that tell."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from nlp_transfer.data.checks import LEAKS, called, comparable
from nlp_transfer.data.finding import Finding
from nlp_transfer.data.keys import Keys
from nlp_transfer.data.labels import is_missing, number_of
from nlp_transfer.data.rows import Rows
from nlp_transfer.significance import is_lower

_FEWEST = 50  # rows, of which a pattern says something
_MOSTLY = 0.95
_OTHERS = 10  # rows without the most frequent label, of which it can be told whether a column tells them apart
_SORTED = 0.2  # of the changes from row to row that chance would bring
_GROUPS = 10  # values of a column at least that may name sources
_REPEATED = 1.5  # rows a value on average: what hardly ever comes again names no source
_TELLS = 0.5  # of what the most frequent label leaves open
_HELPS = 0.1  # of the same, from which it matters where values name sources that are in train and in test
_SHARED = 0.2  # of the rows that have such a value
_CERTAIN = 2.0  # standard errors over the values
_NO_GROUP = ("text", "text_pair", "label", "split", "weight")


def identifiers(splits: Mapping[str, Rows], roles: Mapping[str, str]) -> Iterator[Finding]:
    """Find identifiers: instead of texts, and the same in two splits."""
    texts = splits["train"].texts
    if (
        len(texts) >= _FEWEST
        and sum(map(_is_code, texts)) > _MOSTLY * len(texts)
        and _different(texts) > _MOSTLY * len(texts)
    ):
        yield Finding(
            "id_as_text",
            f"the texts, column {roles['text']!r}, are single words with digits, hardly one of them twice: they look "
            "like identifiers",
        )
    known = {split: _unique_columns(rows, roles) for split, rows in splits.items()}
    for source, target in LEAKS:
        for column in sorted(known.get(source, {}).keys() & known.get(target, {}).keys()):
            ours, theirs = known[source][column], known[target][column]
            both: dict[str, int] = {}
            for row in ours.rows[ours.keys.among(theirs.keys)].tolist():
                both.setdefault(str(ours.cells[row]), row)
            if both and not (_numbers_rows(ours) and _numbers_rows(theirs)):
                yield Finding(
                    "shared_id",
                    f"{len(both):,} of {len(splits[target]):,} {called(target)} rows have a {column!r} that a row of "
                    f"{source} has too",
                    tuple((source, both[each]) for each in sorted(both)),
                )


def order(splits: Mapping[str, Rows], roles: Mapping[str, str]) -> Iterator[Finding]:
    """Find splits whose rows are sorted by their label, or by another column of few values."""
    for split, rows in splits.items():
        sorted_by = [
            column
            for column in rows.table.columns
            if column not in (roles["text"], roles.get("text_pair")) and _is_sorted(rows.cells(column))
        ]
        if sorted_by:
            yield Finding("sorted", f"the {called(split)} rows are sorted by {', '.join(map(repr, sorted_by))}")


def _is_sorted(cells: Sequence[Any]) -> bool:
    """Return whether equal cells stand together far more often than by chance."""
    if len(cells) < _FEWEST or not 2 <= _different(cells) <= len(cells) / 5:
        return False
    numbers: dict[str, int] = {}
    values = np.fromiter((numbers.setdefault(repr(cell), len(numbers)) for cell in cells), np.int64, len(cells))
    changes = int((values[1:] != values[:-1]).sum())
    by_chance = (len(cells) - 1) * (1 - sum((count / len(cells)) ** 2 for count in np.bincount(values).tolist()))
    return changes < _SORTED * by_chance


def _different(cells: Sequence[Any]) -> int:
    """Return how many cells are written differently, without holding them."""
    return _distinct(_hashed(map(repr, cells), len(cells)))


def _hashed(values: Iterable[str], count: int) -> Keys:
    return Keys.of((sha256(value.encode(errors="surrogatepass")).digest() for value in values), count)


def _distinct(keys: Keys) -> int:
    return int(keys.order()[1].sum())


def groups(splits: Mapping[str, Rows], roles: Mapping[str, str]) -> Iterator[Finding]:
    """Find columns that tell the label: authors and the like in train and in test as well, and what is made of it."""
    taken = {roles[role] for role in _NO_GROUP if role in roles}
    target = "test" if "test" in splits else "validation"
    ours, theirs = splits["train"], splits.get(target)
    for column in ours.table.columns:
        if column in taken:
            continue
        different = _different(ours.cells(column))
        told = None if theirs is None or column not in theirs.table.columns else _told(ours, theirs, column, different)
        if told is None:
            yield from _copies(ours, column, different)
        else:
            seen, right, usual = told
            yield Finding(
                "group",
                f"column {column!r}: {seen:.0%} of the {called(target)} rows have a value that training rows have, and "
                f"by the most frequent label of these alone {right:.0%} are right (without: {usual:.0%})",
            )


def _copies(rows: Rows, column: str, different: int) -> Iterator[Finding]:
    """Find that a column with so many values tells the label of nearly every row, as one made of the label does."""
    if different > len(rows) / 2:
        return
    cells = rows.cells(column)
    labels = _labels_of(cells, rows)
    right = sum(counts.most_common(1)[0][1] for counts in labels.values()) / len(rows)
    usual = Counter(map(comparable, rows.labels)).most_common(1)[0][1] / len(rows)
    if (
        len(rows) >= _FEWEST
        and (1 - usual) * len(rows) >= _OTHERS
        and right - usual > _MOSTLY * (1 - usual)
        and not _all_measures(cells)
    ):
        yield Finding(
            "target_leakage",
            f"column {column!r} tells the label: by the most frequent one of each of its {len(labels):,} values "
            f"{right:.0%} of the training rows are right (without: {usual:.0%})",
        )


def _labels_of(cells: Sequence[Any], rows: Rows) -> dict[str, Counter[object]]:
    """Return for each value of a column how often rows with it have each label."""
    labels: defaultdict[str, Counter[object]] = defaultdict(Counter)
    for cell, label in zip(cells, rows.labels, strict=True):
        labels[repr(cell)][comparable(label)] += 1
    return labels


def _told(ours: Rows, theirs: Rows, column: str, different: int) -> tuple[float, float, float] | None:
    """Return, where a column tells the label, much or for certain: share of known values, accuracy by it, and without.

    How much is seen by the label that most training rows with a value have. For certain is seen by all rows, each by
    the others with its value, for a test split may be too small to say so. So many of its values are different.
    """
    known = ours.cells(column)
    if not _GROUPS <= different <= len(ours) / _REPEATED or _all_measures(known):
        return None
    labels = _labels_of(known, ours)
    cells = list(map(repr, theirs.cells(column)))
    usual = Counter(map(comparable, ours.labels)).most_common(1)[0][0]
    wanted = [comparable(label) for label in theirs.labels]
    seen = sum(cell in labels for cell in cells) / len(cells)
    guesses = [labels[cell].most_common(1)[0][0] if cell in labels else usual for cell in cells]
    right = sum(guess == label for guess, label in zip(guesses, wanted, strict=True)) / len(cells)
    without = sum(label == usual for label in wanted) / len(cells)
    much = right - without > _TELLS * (1 - without) and seen > _TELLS
    for cell, label in zip(cells, wanted, strict=True):
        labels[cell][label] += 1
    return (seen, right, without) if much or (seen > _SHARED and _helps(labels)) else None


def _helps(labels: Mapping[str, Counter[object]]) -> bool:
    """Return whether values tell labels better than the most frequent label does, for certain.

    A row's own label has no say in what its value tells. Rows with one value are no independent witnesses, so it is
    asked whether the values agree in that they help. A column that every label tells is the same question, only
    coarser, as the domains of intents: its values are no sources.
    """
    total = sum(labels.values(), Counter[object]())
    usual, most = total.most_common(1)[0]
    coarser: defaultdict[object, int] = defaultdict(int)
    for counts in labels.values():
        for label, count in counts.items():
            coarser[label] = max(coarser[label], count)
    if sum(coarser.values()) > _MOSTLY * total.total():
        return False
    gains = np.array([_gain(counts, usual) for counts in labels.values()], dtype=np.float64)
    enough = gains.sum() > _HELPS * (total.total() - most)
    return bool(enough) and is_lower(-gains, np.zeros_like(gains), np.ones_like(gains), errors=_CERTAIN)


def _gain(counts: Counter[object], usual: object) -> int:
    """Return how many more rows with a value are right by the other rows with it than by the most frequent label."""
    gain = 0
    for label, count in counts.items():
        (first, most), *others = (counts - Counter([label])).most_common(2) or [(usual, 0)]
        guess = usual if others and others[0][1] == most else first
        gain += count * ((guess == label) - (label == usual))
    return gain


def _all_measures(cells: Sequence[Any]) -> bool:
    """Return whether all cells are numbers, some of them with fractions."""
    fractions = False
    for number in (number_of(cell) for cell in cells if not is_missing(cell)):
        if number is None:
            return False
        fractions = fractions or number % 1 != 0
    return fractions


@dataclass(frozen=True)
class _Unique:
    """A column with another value in nearly every row.

    Attributes:
        cells: of the column.
        rows: that have a value, int64 (values,).
        keys: hashes of these values.
    """

    cells: Sequence[Any]
    rows: np.ndarray
    keys: Keys

    @property
    def values(self) -> Iterator[str]:
        """The values, one by one."""
        return (str(self.cells[row]) for row in self.rows.tolist())


def _unique_columns(rows: Rows, roles: Mapping[str, str]) -> dict[str, _Unique]:
    """Return the columns with another value in nearly every row, by name."""
    taken = {roles[role] for role in _NO_GROUP if role in roles}
    found = {}
    for column in rows.table.columns if len(rows) >= _FEWEST else ():
        if column in taken:
            continue
        cells = rows.cells(column)
        present = np.flatnonzero([not is_missing(cell) for cell in cells])
        if not all(isinstance(cell, str | int) for cell in cells if not is_missing(cell)) or _all_measures(cells):
            continue
        keys = _hashed((str(cell) for cell in cells if not is_missing(cell)), len(present))
        unique = _Unique(cells, present, keys)
        if _distinct(keys) > _MOSTLY * len(rows) and not any(" " in value for value in unique.values):
            found[column] = unique
    return found


def _numbers_rows(column: _Unique) -> bool:
    """Return whether values are integers without gaps, maybe behind one word, which number rows and name none."""
    start = str(column.cells[column.rows[-1]]).rstrip("0123456789")
    least, most = math.inf, -math.inf
    for value in column.values:
        rest = value.removeprefix(start)
        if not rest.isdecimal() or len(rest) >= 19:
            return False
        least, most = min(least, int(rest)), max(most, int(rest))
    return most - least < _distinct(column.keys) / _MOSTLY


def _is_code(text: str) -> bool:
    return " " not in text.strip() and any(map(str.isdigit, text))
