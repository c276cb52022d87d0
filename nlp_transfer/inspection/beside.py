"""Rows that are measured on and stand in another data set, too: whatever learned from that one has seen them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from nlp_transfer.data.corpus import read_corpus
from nlp_transfer.data.files import existing
from nlp_transfer.data.finding import Finding
from nlp_transfer.errors import UserError
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
    try:
        existing(other)
        theirs = read_corpus(DataSettings(path=other, empty="keep", unseen="ignore")).rows
    except UserError as error:
        raise UserError(f"check.beside: {error}") from error
    texts, places = [], []
    for rows in theirs.values():
        texts += [_text(rows, row) for row in range(len(rows))]
        places += [rows.where(row) for row in range(len(rows))]
    known = {key: row for row, key in reversed(list(enumerate(key for rows in theirs.values() for key in rows.keys)))}
    for split in [name for name in _MEASURED if name in splits] or splits:
        rows = splits[split]
        same = {row: known[key] for row, key in enumerate(rows.keys) if key in known}
        rest = [row for row in range(len(rows)) if row not in same]
        asked = [*texts, *(_text(rows, row) for row in rest)]
        for pair in near_pairs(asked, [place < len(texts) for place in range(len(asked))], show=show):
            if pair.first < len(texts) <= pair.second:
                same.setdefault(rest[pair.second - len(texts)], pair.first)
        if same:
            first = min(same)
            measured = "training rows, of which a run measures on some," if split == "train" else f"{split} rows"
            yield Finding(
                "contamination",
                f"{len(same):,} of {len(rows):,} {measured} stand in {other}, the same or nearly, for example "
                f"{rows.where(first)} and {places[same[first]]}",
                tuple((split, row) for row in sorted(same)),
            )


def _text(rows: Rows, row: int) -> str:
    return rows.texts[row] if rows.pairs is None else f"{rows.texts[row]}\n{rows.pairs[row]}"
