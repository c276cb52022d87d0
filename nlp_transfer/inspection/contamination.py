"""Contamination: evaluation rows whose text also occurs in another data set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.data.corpus import read_corpus
from nlp_transfer.data.files import existing
from nlp_transfer.data.finding import Finding
from nlp_transfer.data.near import near_pairs
from nlp_transfer.data.sequences import cells_of
from nlp_transfer.errors import about
from nlp_transfer.inspection.joined import JoinedSplits
from nlp_transfer.settings import DataSettings

if TYPE_CHECKING:
    from nlp_transfer.data.rows import Rows

_MEASURED = ("validation", "test")


def shared(
    splits: Mapping[str, Rows], other: str, *, show: Callable[[int, int], None] = lambda *_: None
) -> Iterator[Finding]:
    """Find validation and test rows whose text another data set contains, exactly or nearly.

    If there are training rows only, all of them are checked, since a run takes its evaluation rows from them.

    Args:
        splits: the rows.
        other: file or folder of the other data set, with any labels.
        show: progress callback with the numbers of processed and of all texts.

    Raises:
        UserError: if the other data set cannot be read.
    """
    with about("check.beside"):
        existing(other)
        theirs = read_corpus(DataSettings(path=other, empty="keep", unseen="ignore")).rows
    joined = JoinedSplits(theirs)
    keys, texts = joined.keys, joined.texts(np.ones(len(joined), bool))
    measured_rows = {name: splits[name] for name in _MEASURED if name in splits} or splits
    measured_joined = JoinedSplits(measured_rows)
    first = keys.followed_by(measured_joined.keys).firsts()[len(keys) :]
    is_new = first >= len(keys)
    matches = {row: int(first[row]) for row in np.flatnonzero(~is_new).tolist()}  # to rows of the other data set
    rest = np.flatnonzero(is_new)
    all_texts = cells_of(chain(texts, measured_joined.texts(is_new)), len(texts) + len(rest))
    for pair in near_pairs(all_texts, np.arange(len(all_texts)) < len(texts), show=show):
        if pair.first < len(texts) <= pair.second:
            matches.setdefault(int(rest[pair.second - len(texts)]), pair.first)
    by_split: defaultdict[str, dict[int, int]] = defaultdict(dict)
    for row, their in matches.items():
        split, ours = measured_joined.place(row)
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
