"""Columns and the order of rows: identifiers instead of texts or in two splits, sorted files, groups that tell."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nlp_transfer.data.checks import LEAKS, called, comparable
from nlp_transfer.data.finding import Finding
from nlp_transfer.data.labels import is_missing, number_of
from nlp_transfer.data.rows import Rows

_FEWEST = 50  # rows, of which a pattern says something
_MOSTLY = 0.95
_SORTED = 0.2  # of the changes from row to row that chance would bring
_GROUPS = 10  # values of a column at least that may name sources
_TELLS = 0.5  # of what the most frequent label leaves open
_NO_GROUP = ("text", "text_pair", "label", "split", "weight")


def identifiers(splits: Mapping[str, Rows], roles: Mapping[str, str]) -> Iterator[Finding]:
    """Find identifiers: instead of texts, and the same in two splits."""
    texts = splits["train"].texts
    if (
        len(texts) >= _FEWEST
        and len(set(texts)) > _MOSTLY * len(texts)
        and sum(map(_is_code, texts)) > _MOSTLY * len(texts)
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
            both = ours.keys() & theirs.keys()
            if both and not (_numbers_rows(ours) and _numbers_rows(theirs)):
                yield Finding(
                    "shared_id",
                    f"{len(both):,} of {len(splits[target]):,} {called(target)} rows have a {column!r} that a row of "
                    f"{source} has too",
                    tuple((source, ours[each]) for each in sorted(both)),
                )


def order(splits: Mapping[str, Rows], roles: Mapping[str, str]) -> Iterator[Finding]:
    """Find splits whose rows are sorted by their label, or by another column of few values."""
    for split, rows in splits.items():
        sorted_by = [
            column
            for column in rows.table.columns
            if column not in (roles["text"], roles.get("text_pair")) and _is_sorted(list(map(repr, rows.cells(column))))
        ]
        if sorted_by:
            yield Finding("sorted", f"the {called(split)} rows are sorted by {', '.join(map(repr, sorted_by))}")


def _is_sorted(cells: Sequence[str]) -> bool:
    """Return whether equal cells stand together far more often than by chance."""
    counts = Counter(cells)
    if len(cells) < _FEWEST or not 2 <= len(counts) <= len(cells) / 5:
        return False
    changes = sum(one != other for one, other in itertools.pairwise(cells))
    by_chance = (len(cells) - 1) * (1 - sum((count / len(cells)) ** 2 for count in counts.values()))
    return changes < _SORTED * by_chance


def groups(splits: Mapping[str, Rows], roles: Mapping[str, str]) -> Iterator[Finding]:
    """Find columns, such as authors, that tell the label and whose values stand in train and in test as well."""
    taken = {roles[role] for role in _NO_GROUP if role in roles}
    target = "test" if "test" in splits else "validation"
    if target not in splits:
        return
    ours, theirs = splits["train"], splits[target]
    for column in ours.table.columns:
        if column in taken or column not in theirs.table.columns:
            continue
        told = _told(ours, theirs, column)
        if told is not None:
            seen, right, usual = told
            yield Finding(
                "group",
                f"column {column!r}: {seen:.0%} of the {called(target)} rows have a value that training rows have, and "
                f"by the most frequent label of these alone {right:.0%} are right (without: {usual:.0%})",
            )


def _told(ours: Rows, theirs: Rows, column: str) -> tuple[float, float, float] | None:
    """Return, where a column tells much of the label: share of known values, accuracy by it, and without it."""
    labels: defaultdict[str, Counter[object]] = defaultdict(Counter)
    everything: Counter[object] = Counter()
    known = ours.cells(column)
    for cell, label in zip(known, ours.labels, strict=True):
        labels[repr(cell)][comparable(label)] += 1
        everything[comparable(label)] += 1
    cells = list(map(repr, theirs.cells(column)))
    if not _GROUPS <= len(labels) <= len(ours) / 2 or _all_measures(known):
        return None
    usual = everything.most_common(1)[0][0]
    wanted = [comparable(label) for label in theirs.labels]
    seen = sum(cell in labels for cell in cells) / len(cells)
    guesses = [labels[cell].most_common(1)[0][0] if cell in labels else usual for cell in cells]
    right = sum(guess == label for guess, label in zip(guesses, wanted, strict=True)) / len(cells)
    without = sum(label == usual for label in wanted) / len(cells)
    tells = right - without > _TELLS * (1 - without)
    return (seen, right, without) if tells and seen > _TELLS else None


def _all_measures(cells: Sequence[Any]) -> bool:
    """Return whether all cells are numbers, some of them with fractions."""
    numbers = [number_of(cell) for cell in cells if not is_missing(cell)]
    return all(number is not None for number in numbers) and any(number % 1 for number in numbers if number is not None)


def _unique_columns(rows: Rows, roles: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """Return the columns with another value in nearly every row: value → row."""
    taken = {roles[role] for role in _NO_GROUP if role in roles}
    found = {}
    for column in rows.table.columns:
        cells = rows.cells(column)
        values = {str(cell): row for row, cell in reversed(list(enumerate(cells))) if not is_missing(cell)}
        unique = len(rows) >= _FEWEST and len(values) > _MOSTLY * len(rows)
        named = all(isinstance(cell, str | int) for cell in cells if not is_missing(cell))
        if (
            unique
            and named
            and column not in taken
            and not _all_measures(cells)
            and not any(" " in value for value in values)
        ):
            found[column] = values
    return found


def _numbers_rows(values: Mapping[str, int]) -> bool:
    """Return whether values are integers without gaps, maybe behind one word, which number rows and name none."""
    start = next(iter(values)).rstrip("0123456789")
    numbers = [int(rest) for value in values if (rest := value.removeprefix(start)).isdecimal() and len(rest) < 19]
    return len(numbers) == len(values) and max(numbers) - min(numbers) < len(numbers) / _MOSTLY


def _is_code(text: str) -> bool:
    return " " not in text.strip() and any(map(str.isdigit, text))
