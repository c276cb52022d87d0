"""One hash per row in little memory, and fast comparison of them: first occurrences, membership, sorting."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import overload

import numpy as np

from nlp_transfer.data import sequences
from nlp_transfer.data.listlike import ListLike
from nlp_transfer.data.sequences import array_for

_BYTES = 32  # of SHA-256
_CHUNK = 1 << 16  # rows


class Keys(ListLike[bytes]):
    """One hash per row, uint8 (rows, 32); a large array is backed by a file."""

    def __init__(self, hashes: np.ndarray) -> None:
        self._hashes = hashes

    @classmethod
    def of(cls, hashes: Iterable[bytes], count: int) -> Keys:
        """Collect `count` hashes."""
        hashes, out = iter(hashes), array_for((count, _BYTES), np.uint8)
        for start in range(0, count, _CHUNK):
            part = b"".join(islice(hashes, _CHUNK))
            out[start : start + _CHUNK] = np.frombuffer(part, np.uint8).reshape(-1, _BYTES)
        return cls(out)

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
        for start in range(0, len(self), _CHUNK):
            part = self._hashes[start : start + _CHUNK].tobytes()
            yield from (part[at : at + _BYTES] for at in range(0, len(part), _BYTES))

    def take(self, rows: Sequence[int] | np.ndarray) -> Keys:
        """Return the hashes of these rows, in the order given."""
        out, rows = array_for((len(rows), _BYTES), np.uint8), np.asarray(rows, np.int64)
        for start in range(0, len(rows), _CHUNK):
            out[start : start + _CHUNK] = self._hashes[rows[start : start + _CHUNK]]
        return Keys(out)

    def followed_by(self, others: Keys) -> Keys:
        """Return these hashes followed by others."""
        out = array_for((len(self) + len(others), _BYTES), np.uint8)
        return Keys(np.concatenate([self._hashes, others._hashes], out=out))

    def firsts(self) -> np.ndarray:
        """Return for each row the first row with the same hash, int64 (rows,)."""
        order, is_new = self.order()
        repeats = np.flatnonzero(~is_new)
        first_of_run = np.where(np.diff(repeats, prepend=-1) == 1, 0, repeats - 1)  # 0 inside a run of equal hashes
        firsts = np.arange(len(self))
        firsts[order[repeats]] = order[np.maximum.accumulate(first_of_run)]
        return firsts

    def among(self, others: Keys) -> np.ndarray:
        """Return which rows have a hash that is among others, bool (rows,)."""
        return others.followed_by(self).firsts()[len(others) :] < len(others)

    def order(self) -> tuple[np.ndarray, np.ndarray]:
        """Sort the rows stably by hash.

        Returns:
            The rows, int64 (rows,), and for each of them whether its hash differs from that of the previous one.
        """
        words = self._hashes.view(">u8")
        prefixes = words[:, 0].astype(np.uint64)  # nearly always enough to tell hashes apart
        order, is_new = np.argsort(prefixes, kind="stable"), np.ones(len(self), bool)
        for start in range(1, len(self), _CHUNK):  # chunks avoid a second copy of all hashes
            part = slice(start, start + _CHUNK)
            row, previous = order[part], order[start - 1 : start - 1 + len(order[part])]
            is_new[part] = prefixes[row] != prefixes[previous]
            is_equal = ~is_new[part]
            if not np.array_equal(words[row[is_equal]], words[previous[is_equal]]):  # equal prefixes only: sort fully
                order = np.lexsort(words.T[::-1])
                is_new[1:] = (words[order[1:]] != words[order[:-1]]).any(axis=1)
                break
        return order, is_new


def rows_where(mask: np.ndarray) -> Sequence[int]:
    """Return the indices of the rows where the mask, bool (rows,), is true."""
    rows = np.flatnonzero(mask)
    return rows.tolist() if len(rows) < sequences.MANY_ROWS else array("q", rows.tobytes())
