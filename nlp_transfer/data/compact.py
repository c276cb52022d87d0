"""Many cells in little memory: strings, lists and objects are stored back to back in a temporary file.

Cells of other types, and values that JSON does not reproduce exactly, stay Python objects in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, overload

import numpy as np

from nlp_transfer.data.listlike import ListLike
from nlp_transfer.data.missing import MISSING
from nlp_transfer.machine.disk import Scratch

_MANY = 1 << 24  # characters; fewer stay a list
_CHUNK = 4096  # cells
_NONE, _MISSING, _OTHER = -1, -2, -3  # codes of cells that are not in the file; the heap's object n is _OTHER - n
_PLAIN = frozenset((str, int, float, bool, type(None)))
_from_json = json.JSONDecoder().raw_decode
_JSON = 1 << 62  # added to the number of a byte string that is JSON


class Heap:
    """Numbered byte strings, back to back in a file; the first one is empty.

    Attributes:
        objects: cells that have no byte string and stay in memory.
    """

    def __init__(self) -> None:
        self.objects: list[Any] = []
        self._bytes, self._ends = Scratch(np.uint8, many=_MANY), Scratch(np.int64, many=_MANY // 8)
        self._ends.append(np.zeros(2, np.int64))

    def __len__(self) -> int:
        return len(self._ends.values) - 1

    def add(self, strings: Sequence[bytes]) -> None:
        """Append byte strings."""
        ends = np.cumsum(np.fromiter(map(len, strings), np.int64, len(strings)))
        self._ends.append(len(self._bytes.values) + ends)
        self._bytes.append(np.frombuffer(b"".join(strings), np.uint8))

    def __getitem__(self, number: int) -> memoryview:
        return self._bytes.values.data[self._ends.values[number] : self._ends.values[number + 1]]

    def read(self, numbers: np.ndarray) -> Iterator[memoryview]:
        """Yield the byte strings with these numbers."""
        view = self._bytes.values.data
        begins, ends = self._ends.values[numbers].tolist(), self._ends.values[numbers + 1].tolist()
        for begin, end in zip(begins, ends, strict=True):
            yield view[begin:end]


class CompactCells(ListLike[Any]):
    """A sequence of cells that are decoded anew at each access.

    Each cell takes 8 bytes of memory: the number of its byte string or object in a heap.

    Args:
        cells: initial cells.
        heap: shared with other sequences; None: a new one.
    """

    def __init__(self, cells: Iterable[Any] = (), heap: Heap | None = None) -> None:
        self._heap = Heap() if heap is None else heap
        self._parts = [np.empty(0, np.int64)]
        self._length = 0
        self.extend(cells)

    def extend(self, cells: Iterable[Any]) -> None:
        """Append cells."""
        cells = iter(cells)
        while part := list(islice(cells, _CHUNK)):
            pending: list[bytes] = []
            self._append(np.fromiter((self._encode(cell, pending) for cell in part), np.int64, len(part)))
            self._heap.add(pending)

    def _encode(self, cell: Any, pending: list[bytes]) -> int:
        """Return the number of a cell; its byte string, if it has one, is appended to `pending`."""
        if type(cell) is str:
            pending.append(cell.encode("utf-8", "surrogatepass"))
            return len(self._heap) + len(pending) - 1
        if cell is None:
            return _NONE
        if cell is MISSING:
            return _MISSING
        if type(cell) in (list, dict) and (encoded := _as_json(cell)) is not None:
            pending.append(encoded)
            return _JSON + len(self._heap) + len(pending) - 1
        self._heap.objects.append(cell)
        return _OTHER - (len(self._heap.objects) - 1)

    def _append(self, numbers: np.ndarray) -> None:
        self._parts.append(numbers)
        self._length += len(numbers)

    @property
    def _numbers(self) -> np.ndarray:
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        return self._parts[0]

    def take(self, rows: Sequence[int]) -> CompactCells:
        """Return the cells of these rows, in the order given."""
        return self._with_numbers(self._numbers[np.asarray(rows, np.int64)])

    def filled(self, text: str) -> CompactCells:
        """Return the cells with None and MISSING replaced by a text."""
        number = len(self._heap)
        self._heap.add([text.encode("utf-8", "surrogatepass")])
        return self._with_numbers(np.where(np.isin(self._numbers, (_NONE, _MISSING)), number, self._numbers))

    def _with_numbers(self, numbers: np.ndarray) -> CompactCells:
        cells = CompactCells(heap=self._heap)
        cells._append(numbers)
        return cells

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self._read(self._numbers[index])
        number = int(self._numbers[index])
        return self._decode(number, self._heap[max(number, 0) % _JSON])

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), _CHUNK):
            yield from self._read(self._numbers[start : start + _CHUNK])

    def _read(self, numbers: np.ndarray) -> list[Any]:
        strings = self._heap.read(np.maximum(numbers, 0) % _JSON)
        return [self._decode(number, string) for number, string in zip(numbers.tolist(), strings, strict=True)]

    def _decode(self, number: int, string: memoryview) -> Any:
        if number >= _JSON:
            return _from_json(str(string, "ascii"))[0]
        if number >= 0:
            return str(string, "utf-8", "surrogatepass")
        if number == _NONE:
            return None
        return MISSING if number == _MISSING else self._heap.objects[_OTHER - number]

    def __reduce__(self) -> tuple[Any, ...]:
        return CompactCells, (list(self),)  # a copy, here or in another process, has files of its own


def _as_json(cell: Any) -> bytes | None:
    """Return a list or an object as JSON, or None where JSON would not reproduce it."""
    try:
        text = json.dumps(cell) if _is_plain(cell) else None
    except (ValueError, RecursionError):  # too many digits, or too deep
        return None
    if text is None or ("\\ud" in text and _from_json(text)[0] != cell):  # two lone surrogates may become one character
        return None
    return text.encode("ascii")


def _is_plain(cell: Any) -> bool:
    """Whether a cell consists of JSON types only, subclasses excluded."""
    kind = type(cell)
    if kind is dict:
        return all(type(key) is str for key in cell) and all(map(_is_plain, cell.values()))
    return kind in _PLAIN or (kind is list and all(map(_is_plain, cell)))


def compact(texts: Sequence[str]) -> Sequence[str]:
    """Return texts as `CompactCells` if they are many; few become a list, which keeps no larger file open."""
    if not isinstance(texts, list | CompactCells):
        return texts
    if sum(map(len, texts)) < _MANY:
        return list(texts)
    return texts if isinstance(texts, CompactCells) else CompactCells(texts)
