"""Many texts in little memory: as UTF-8 one behind the other, in a file that goes with them; it knows no rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np

from nlp_transfer.machine.disk import scratch

_MANY = 1 << 24  # characters; fewer stay a list
_AT_ONCE = 4096


class CompactTexts(Sequence[str]):
    """Texts that become strings when they are asked for.

    Text t is ``utf8[ends[t] : ends[t + 1]]``. As objects of Python they would take 60 bytes each beside their letters.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._ends = np.zeros(len(texts) + 1, np.int64)
        self._ends[1:] = np.fromiter((len(_bytes(text)) for text in texts), np.int64, len(texts))
        np.cumsum(self._ends, out=self._ends)
        self._utf8 = scratch((int(self._ends[-1]),), np.dtype(np.uint8))
        for start in range(0, len(texts), _AT_ONCE):
            part = _bytes("".join(texts[start : start + _AT_ONCE]))
            self._utf8[self._ends[start] : self._ends[start] + len(part)] = np.frombuffer(part, np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        at = int(index) % len(self)
        return bytes(self._utf8[self._ends[at] : self._ends[at + 1]]).decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self[start : start + _AT_ONCE]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, list | CompactTexts):
            return NotImplemented
        return len(self) == len(other) and all(one == another for one, another in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as a list


def compact(texts: Sequence[str]) -> Sequence[str]:
    """Return texts so that many of them take little memory."""
    return CompactTexts(texts) if sum(map(len, texts)) >= _MANY else texts


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
