"""Checks of columns and row order: identifiers, sorted files, and columns that predict the label."""

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

_MIN_ROWS = 50  # for a pattern to mean anything
_MOSTLY = 0.95
_MIN_OTHERS = 10  # rows without the most frequent label, for a column that copies the label
_SORTED = 0.2  # share of the changes from row to row that are expected by chance
_MIN_GROUPS = 10  # values of a column that may name sources
_ROWS_PER_GROUP = 1.5  # on average, at least: values that hardly ever repeat name no source
# A column that predicts the label is reported if it is right on this share of the rows that the most frequent label
# gets wrong, or, where that is statistically certain, on the smaller share. For a large gain, more than half of the
# evaluation rows must also have a value that occurs in training.
_LARGE_GAIN = 0.5
_SMALL_GAIN = 0.1
_MIN_SHARED = 0.2  # share of evaluation rows whose value occurs in training, for a small gain
_STANDARD_ERRORS = 2.0  # over the values, by which a small gain must differ from zero
_NO_GROUP = ("text", "text_pair", "label", "split", "weight")


def identifiers(splits: Mapping[str, Rows], roles: Mapping[str, str]) -> Iterator[Finding]:
    """Find identifiers in place of texts, and identifiers that two splits share."""
    texts = splits["train"].texts
    if (
        len(texts) >= _MIN_ROWS
        and sum(map(_is_code, texts)) > _MOSTLY * len(texts)
        and _count_distinct(texts) > _MOSTLY * len(texts)
    ):
        yield Finding(
            "id_as_text",
            f"the texts, column {roles['text']!r}, are single words with digits, hardly one of them twice: they look "
            "like identifiers",
        )
    unique = {split: _unique_columns(rows, roles) for split, rows in splits.items()}
    for source, target in LEAKS:
        for column in sorted(unique.get(source, {}).keys() & unique.get(target, {}).keys()):
            ours, theirs = unique[source][column], unique[target][column]
            shared: dict[str, int] = {}
            for row in ours.rows[ours.keys.among(theirs.keys)].tolist():
                shared.setdefault(str(ours.cells[row]), row)
            if shared and not (_is_row_number(ours) and _is_row_number(theirs)):
                yield Finding(
                    "shared_id",
                    f"{len(shared):,} of {len(splits[target]):,} {called(target)} rows have a {column!r} that a row of "
                    f"{source} has too",
                    tuple((source, shared[each]) for each in sorted(shared)),
                )


def order(splits: Mapping[str, Rows], roles: Mapping[str, str]) -> Iterator[Finding]:
    """Find splits whose rows are sorted by label, or by another column with few values."""
    for split, rows in splits.items():
        sorted_by = [
            column
            for column in rows.table.columns
            if column not in (roles["text"], roles.get("text_pair")) and _is_sorted(rows.cells(column))
        ]
        if sorted_by:
            yield Finding("sorted", f"the {called(split)} rows are sorted by {', '.join(map(repr, sorted_by))}")


def _is_sorted(cells: Sequence[Any]) -> bool:
    """Return whether equal cells are adjacent far more often than by chance."""
    if len(cells) < _MIN_ROWS or not 2 <= _count_distinct(cells) <= len(cells) / 5:
        return False
    numbers: dict[str, int] = {}
    values = np.fromiter((numbers.setdefault(repr(cell), len(numbers)) for cell in cells), np.int64, len(cells))
    changes = int((values[1:] != values[:-1]).sum())
    by_chance = (len(cells) - 1) * (1 - sum((count / len(cells)) ** 2 for count in np.bincount(values).tolist()))
    return changes < _SORTED * by_chance


def _count_distinct(cells: Sequence[Any]) -> int:
    """Return the number of distinct cells, by hashes, so that the values need not be kept in memory."""
    return _distinct(_hashed(map(repr, cells), len(cells)))


def _hashed(values: Iterable[str], count: int) -> Keys:
    return Keys.of((sha256(value.encode(errors="surrogatepass")).digest() for value in values), count)


def _distinct(keys: Keys) -> int:
    return int(keys.order()[1].sum())


def groups(splits: Mapping[str, Rows], roles: Mapping[str, str]) -> Iterator[Finding]:
    """Find columns that predict the label: sources such as authors that splits share, and copies of the label."""
    taken = {roles[role] for role in _NO_GROUP if role in roles}
    target = "test" if "test" in splits else "validation"
    ours, theirs = splits["train"], splits.get(target)
    for column in ours.table.columns:
        if column in taken:
            continue
        distinct = _count_distinct(ours.cells(column))
        accuracies = None
        if theirs is not None and column in theirs.table.columns:
            accuracies = _accuracies_by_value(ours, theirs, column, distinct)
        if accuracies is None:
            yield from _label_copies(ours, column, distinct)
        else:
            seen, right, baseline = accuracies
            yield Finding(
                "group",
                f"column {column!r}: {seen:.0%} of the {called(target)} rows have a value that training rows have, and "
                f"by the most frequent label of these alone {right:.0%} are right (without: {baseline:.0%})",
            )


def _label_copies(rows: Rows, column: str, distinct: int) -> Iterator[Finding]:
    """Find that a column with `distinct` values determines nearly every label, as if derived from it."""
    if distinct > len(rows) / 2:
        return
    cells = rows.cells(column)
    labels = _labels_by_value(cells, rows)
    right = sum(counts.most_common(1)[0][1] for counts in labels.values()) / len(rows)
    baseline = Counter(map(comparable, rows.labels)).most_common(1)[0][1] / len(rows)
    if (
        len(rows) >= _MIN_ROWS
        and (1 - baseline) * len(rows) >= _MIN_OTHERS
        and right - baseline > _MOSTLY * (1 - baseline)
        and not _are_measurements(cells)
    ):
        yield Finding(
            "target_leakage",
            f"column {column!r} predicts the label: by the most frequent one of each of its {len(labels):,} values "
            f"{right:.0%} of the training rows are right (without: {baseline:.0%})",
        )


def _labels_by_value(cells: Sequence[Any], rows: Rows) -> dict[str, Counter[object]]:
    """Return the label counts of the rows with each value of a column."""
    labels: defaultdict[str, Counter[object]] = defaultdict(Counter)
    for cell, label in zip(cells, rows.labels, strict=True):
        labels[repr(cell)][comparable(label)] += 1
    return labels


def _accuracies_by_value(ours: Rows, theirs: Rows, column: str, distinct: int) -> tuple[float, float, float] | None:
    """Return how well a column with `distinct` values predicts the label: share of known values, accuracy, baseline.

    The accuracy is that of the most frequent label of the training rows with the same value, and the baseline that of
    the most frequent label. None unless the gain is large, or certain by all rows, since a test split may be too small.
    """
    known = ours.cells(column)
    if not _MIN_GROUPS <= distinct <= len(ours) / _ROWS_PER_GROUP or _are_measurements(known):
        return None
    labels = _labels_by_value(known, ours)
    cells = list(map(repr, theirs.cells(column)))
    majority = Counter(map(comparable, ours.labels)).most_common(1)[0][0]
    truth = [comparable(label) for label in theirs.labels]
    seen = sum(cell in labels for cell in cells) / len(cells)
    guesses = [labels[cell].most_common(1)[0][0] if cell in labels else majority for cell in cells]
    right = sum(guess == label for guess, label in zip(guesses, truth, strict=True)) / len(cells)
    baseline = sum(label == majority for label in truth) / len(cells)
    is_large = right - baseline > _LARGE_GAIN * (1 - baseline) and seen > _LARGE_GAIN
    for cell, label in zip(cells, truth, strict=True):
        labels[cell][label] += 1
    return (seen, right, baseline) if is_large or (seen > _MIN_SHARED and _gains_certainly(labels)) else None


def _gains_certainly(labels: Mapping[str, Counter[object]]) -> bool:
    """Return whether values predict labels better than the most frequent label does, with statistical certainty.

    Each row is predicted from the other rows with its value. Rows with the same value are not independent, so the test
    is over values. A column that the label determines, such as the domain of an intent, is a coarser label and not a
    source.
    """
    total = sum(labels.values(), Counter[object]())
    majority, most = total.most_common(1)[0]
    coarser: defaultdict[object, int] = defaultdict(int)
    for counts in labels.values():
        for label, count in counts.items():
            coarser[label] = max(coarser[label], count)
    if sum(coarser.values()) > _MOSTLY * total.total():
        return False
    gains = np.array([_gain(counts, majority) for counts in labels.values()], dtype=np.float64)
    is_enough = gains.sum() > _SMALL_GAIN * (total.total() - most)
    return bool(is_enough) and is_lower(-gains, np.zeros_like(gains), np.ones_like(gains), errors=_STANDARD_ERRORS)


def _gain(counts: Counter[object], majority: object) -> int:
    """Return how many more rows with a value the other rows with it predict rightly than the most frequent label."""
    gain = 0
    for label, count in counts.items():
        (first, most), *others = (counts - Counter([label])).most_common(2) or [(majority, 0)]
        guess = majority if others and others[0][1] == most else first
        gain += count * ((guess == label) - (label == majority))
    return gain


def _are_measurements(cells: Sequence[Any]) -> bool:
    """Return whether all cells are numbers, some of them with fractions."""
    has_fractions = False
    for number in (number_of(cell) for cell in cells if not is_missing(cell)):
        if number is None:
            return False
        has_fractions = has_fractions or number % 1 != 0
    return has_fractions


@dataclass(frozen=True)
class _Unique:
    """A column with a different value in nearly every row.

    Attributes:
        cells: of the column.
        rows: int64 (values,), indices of the rows that have a value.
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
    """Return the columns with a different value in nearly every row, by name."""
    taken = {roles[role] for role in _NO_GROUP if role in roles}
    columns = {}
    for column in rows.table.columns if len(rows) >= _MIN_ROWS else ():
        if column in taken:
            continue
        cells = rows.cells(column)
        present = np.flatnonzero([not is_missing(cell) for cell in cells])
        if not all(isinstance(cell, str | int) for cell in cells if not is_missing(cell)) or _are_measurements(cells):
            continue
        keys = _hashed((str(cell) for cell in cells if not is_missing(cell)), len(present))
        unique = _Unique(cells, present, keys)
        if _distinct(keys) > _MOSTLY * len(rows) and not any(" " in value for value in unique.values):
            columns[column] = unique
    return columns


def _is_row_number(column: _Unique) -> bool:
    """Return whether values are consecutive integers, maybe with a common prefix, that merely number the rows."""
    prefix = str(column.cells[column.rows[-1]]).rstrip("0123456789")
    least, most = math.inf, -math.inf
    for value in column.values:
        rest = value.removeprefix(prefix)
        if not rest.isdecimal() or len(rest) >= 19:
            return False
        least, most = min(least, int(rest)), max(most, int(rest))
    return most - least < _distinct(column.keys) / _MOSTLY


def _is_code(text: str) -> bool:
    return " " not in text.strip() and any(map(str.isdigit, text))
