"""Rows that are measured on and stand in another data set, too: whatever learned from that one has seen them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.data.corpus import read_corpus
from nlp_transfer.data.files import existing
from nlp_transfer.data.finding import Finding
from nlp_transfer.data.sequences import cells_of
from nlp_transfer.errors import about
from nlp_transfer.inspection.joined import JoinedSplits
from nlp_transfer.inspection.near import near_pairs
from nlp_transfer.settings import DataSettings

if TYPE_CHECKING:
    from nlp_transfer.data.rows import Rows

_MEASURED = ("validation", "test")


def shared(
    splits: Mapping[str, Rows], other: str, *, show: Callable[[int, int], None] = lambda *_: None
) -> Iterator[Finding]:
    """Find rows of validation and test of which another data set holds the text, the same or nearly.

    Where only training rows are given, all of them are looked at: a run carves those that it measures on out of them.

    Args:
        splits: the rows.
        other: file or folder of the other data set; its labels may be any.
        show: told how many of how many texts are done.

    Raises:
        UserError: for another data set that cannot be read.
    """
    with about("check.beside"):
        existing(other)
        theirs = read_corpus(DataSettings(path=other, empty="keep", unseen="ignore")).rows
    joined = JoinedSplits(theirs)
    keys, texts = joined.keys, joined.texts(np.ones(len(joined), bool))
    measured_rows = {name: splits[name] for name in _MEASURED if name in splits} or splits
    asked_about = JoinedSplits(measured_rows)
    first = keys.followed_by(asked_about.keys).firsts()[len(keys) :]
    is_new = first >= len(keys)
    known = {row: int(first[row]) for row in np.flatnonzero(~is_new).tolist()}
    rest = np.flatnonzero(is_new)
    all_texts = cells_of(chain(texts, asked_about.texts(is_new)), len(texts) + len(rest))
    for pair in near_pairs(all_texts, np.arange(len(all_texts)) < len(texts), show=show):
        if pair.first < len(texts) <= pair.second:
            known.setdefault(int(rest[pair.second - len(texts)]), pair.first)
    by_split: defaultdict[str, dict[int, int]] = defaultdict(dict)
    for row, their in known.items():
        split, ours = asked_about.place(row)
        by_split[split][ours] = their
    for split, rows in measured_rows.items():
        if same := by_split[split]:
            ours = min(same)
            name, their = joined.place(same[ours])
            measured = "training rows, of which a run measures on some," if split == "train" else f"{split} rows"
            yield Finding(
                "contamination",
                f"{len(same):,} of {len(rows):,} {measured} stand in {other}, the same or nearly, for example "
                f"{rows.where(ours)} and {theirs[name].where(their)}",
                tuple((split, row) for row in sorted(same)),
            )
