"""Hashes of many rows, in little memory, and which of them are the same; what is hashed is known elsewhere."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import overload

import numpy as np

from nlp_transfer.data import sequences
from nlp_transfer.data.listlike import AsList
from nlp_transfer.data.sequences import array_for

_BYTES = 32  # of SHA-256
_AT_ONCE = 1 << 16


class Keys(AsList[bytes]):
    """One hash a row, uint8 (rows, 32); of many the array lies in a file."""

    def __init__(self, hashes: np.ndarray) -> None:
        self._hashes = hashes

    @classmethod
    def of(cls, hashes: Iterable[bytes], count: int) -> Keys:
        """Return so many hashes."""
        hashes, made = iter(hashes), array_for((count, _BYTES), np.uint8)
        for start in range(0, count, _AT_ONCE):
            part = b"".join(islice(hashes, _AT_ONCE))
            made[start : start + _AT_ONCE] = np.frombuffer(part, np.uint8).reshape(-1, _BYTES)
        return cls(made)

    def __len__(self) -> int:
        return len(self._hashes)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [row.tobytes() for row in self._hashes[index]]
        return self._hashes[index].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self), _AT_ONCE):
            part = self._hashes[start : start + _AT_ONCE].tobytes()
            yield from (part[at : at + _BYTES] for at in range(0, len(part), _BYTES))

    def take(self, rows: Sequence[int] | np.ndarray) -> Keys:
        """Return the hashes of some of the rows, in the order given."""
        made, rows = array_for((len(rows), _BYTES), np.uint8), np.asarray(rows, np.int64)
        for start in range(0, len(rows), _AT_ONCE):
            made[start : start + _AT_ONCE] = self._hashes[rows[start : start + _AT_ONCE]]
        return Keys(made)

    def followed_by(self, others: Keys) -> Keys:
        """Return these hashes and behind them others."""
        out = array_for((len(self) + len(others), _BYTES), np.uint8)
        return Keys(np.concatenate([self._hashes, others._hashes], out=out))

    def firsts(self) -> np.ndarray:
        """Return for each row the first one that has the same hash, int64 (rows,)."""
        order, new = self.order()
        again = np.flatnonzero(~new)
        before = np.where(np.diff(again, prepend=-1) == 1, 0, again - 1)  # where the first of a run of equal ones is
        firsts = np.arange(len(self))
        firsts[order[again]] = order[np.maximum.accumulate(before)]
        return firsts

    def among(self, others: Keys) -> np.ndarray:
        """Return which rows have a hash that is one of others, bool (rows,)."""
        return others.followed_by(self).firsts()[len(others) :] < len(others)

    def order(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows in the order of their hashes, those with the same one as they stand.

        Returns:
            The rows, int64 (rows,), and for each of them whether its hash is another than that of the one before.
        """
        words = self._hashes.view(">u8")
        begins = words[:, 0].astype(np.uint64)  # which tell nearly always
        order, new = np.argsort(begins, kind="stable"), np.ones(len(self), bool)
        for start in range(1, len(self), _AT_ONCE):  # all at once would take as much memory again
            part = slice(start, start + _AT_ONCE)
            one, before = order[part], order[start - 1 : start - 1 + len(order[part])]
            new[part] = begins[one] != begins[before]
            alike = ~new[part]
            if not np.array_equal(words[one[alike]], words[before[alike]]):
                order = np.lexsort(words.T[::-1])
                new[1:] = (words[order[1:]] != words[order[:-1]]).any(axis=1)
                break
        return order, new


def rows_where(marked: np.ndarray) -> Sequence[int]:
    """Return the rows that are marked, which are bool (rows,)."""
    rows = np.flatnonzero(marked)
    return rows.tolist() if len(rows) < sequences.MANY_ROWS else array("q", rows.tobytes())
