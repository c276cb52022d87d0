"""A concatenated view of the rows of several splits, with one index for all, in little memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import chain, compress

import numpy as np

from nlp_transfer.data.finding import Place
from nlp_transfer.data.keys import Keys
from nlp_transfer.data.rows import Rows, whole_texts
from nlp_transfer.data.sequences import cells_of


class JoinedSplits:
    """The rows of several splits by a common index.

    Args:
        splits: the splits, in order.
    """

    def __init__(self, splits: Mapping[str, Rows]) -> None:
        self._splits = splits
        self._ends = np.cumsum([len(rows) for rows in splits.values()])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def keys(self) -> Keys:
        """Keys that are equal for rows with the same text, see ``rows.text_key``."""
        return reduce(Keys.followed_by, (rows.keys for rows in self._splits.values()))

    def place(self, number: int) -> Place:
        """Return the split of a row, and its index there."""
        at = int(np.searchsorted(self._ends, number, side="right"))
        split = list(self._splits)[at]
        return split, number - int(self._ends[at]) + len(self._splits[split])

    def texts(self, selected: np.ndarray) -> Sequence[str]:
        """Return the texts of selected rows, bool (rows,); pairs are joined to one text."""
        whole = chain.from_iterable(whole_texts(rows.texts, rows.pairs) for rows in self._splits.values())
        return cells_of(compress(whole, selected), int(selected.sum()))
