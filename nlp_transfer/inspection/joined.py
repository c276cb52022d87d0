"""The rows of several splits one behind the other, by a number each, and in little memory; it finds nothing in them."""

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
    """Rows by number.

    Args:
        splits: whose rows they are.
    """

    def __init__(self, splits: Mapping[str, Rows]) -> None:
        self._splits = splits
        self._ends = np.cumsum([len(rows) for rows in splits.values()])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def keys(self) -> Keys:
        """What makes two rows the same text, see ``rows.text_key``."""
        return reduce(Keys.followed_by, (rows.keys for rows in self._splits.values()))

    def place(self, number: int) -> Place:
        """Return the split of a row, and which of its rows it is."""
        at = int(np.searchsorted(self._ends, number, side="right"))
        split = list(self._splits)[at]
        return split, number - int(self._ends[at]) + len(self._splits[split])

    def texts(self, marked: np.ndarray) -> Sequence[str]:
        """Return the texts of the rows that are marked, which are bool (rows,); those of a pair as one."""
        whole = chain.from_iterable(whole_texts(rows.texts, rows.pairs) for rows in self._splits.values())
        return cells_of(compress(whole, marked), int(marked.sum()))
