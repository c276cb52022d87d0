"""Checks for repeated rows, exact or near, within and across splits, with the same label or a conflicting one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from nlp_transfer.data.checks import LEAKS, called, comparable, conflicts, leaks, repeats
from nlp_transfer.data.finding import Finding, Place
from nlp_transfer.data.labels import Label
from nlp_transfer.data.near import near_pairs
from nlp_transfer.data.rows import Rows
from nlp_transfer.inspection.joined import JoinedSplits


def exact(splits: Mapping[str, Rows]) -> Iterator[Finding]:
    """Find texts that are equal up to case, white space and Unicode compatibility forms."""
    yield from leaks(splits)
    for split, rows in splits.items():
        yield from conflicts(split, rows)
        yield from repeats(split, rows)


def near(splits: Mapping[str, Rows], *, show: Callable[[int, int], None] = lambda *_: None) -> Iterator[Finding]:
    """Find texts that are nearly but not exactly equal, see ``near.near_pairs``."""
    joined = JoinedSplits(splits)
    distinct = joined.keys.firsts() == np.arange(len(joined))
    numbers = np.flatnonzero(distinct)
    leaked: defaultdict[tuple[str, str], dict[Place, Place]] = defaultdict(dict)
    within: defaultdict[str, dict[Place, Place]] = defaultdict(dict)
    disputed: defaultdict[str, dict[Place, Place]] = defaultdict(dict)
    for pair in near_pairs(joined.texts(distinct), _groups(splits)[distinct], show=show):
        early, late = (joined.place(int(numbers[each])) for each in (pair.first, pair.second))
        if early[0] != late[0]:
            leaked[early[0], late[0]].setdefault(early, late)
        elif comparable(_label(splits, early)) == comparable(_label(splits, late)):
            within[late[0]].setdefault(late, early)
        else:
            disputed[late[0]].setdefault(late, early)
    for source, target in LEAKS:
        if pairs := leaked[source, target]:
            count = len(set(pairs.values()))
            yield Finding(
                "near_leak",
                f"{count:,} of {len(splits[target]):,} {target} rows are nearly the same as one in {source}: "
                f"{_example(splits, pairs)}",
                tuple(pairs),
                tuple(pairs.values()),
            )
    for split in splits:
        for kind, pairs, description in (
            ("near_conflict", disputed[split], "nearly the same as another one, which is labelled otherwise"),
            ("near_repeat", within[split], "nearly the same as another one"),
        ):
            if pairs:
                verb = "row is" if len(pairs) == 1 else "rows are"
                yield Finding(
                    kind,
                    f"{len(pairs):,} {called(split)} {verb} {description}: {_example(splits, pairs)}",
                    tuple(pairs),
                    tuple(pairs.values()),
                )


def _groups(splits: Mapping[str, Rows]) -> np.ndarray:
    """Return int64 (rows,): a number for each row, shared by rows of the same split and label."""
    numbers: dict[tuple[str, object], int] = {}
    groups = (
        numbers.setdefault((split, comparable(label)), len(numbers))
        for split, rows in splits.items()
        for label in rows.labels
    )
    return np.fromiter(groups, np.int64)


def _label(splits: Mapping[str, Rows], place: Place) -> Label:
    return splits[place[0]].labels[place[1]]


def _example(splits: Mapping[str, Rows], found: Mapping[Place, Place]) -> str:
    """Name the first pair of places."""
    pair = next(iter(found.items()))
    return "for example " + " and ".join(splits[split].where(row) for split, row in pair)
