"""Many cells in little memory: strings, lists and objects, one behind the other in a file that goes with them.

Cells of other types, and what JSON does not give back as it was, stay as they are. It knows no rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, overload

import numpy as np

from nlp_transfer.data.listlike import AsList
from nlp_transfer.data.missing import MISSING
from nlp_transfer.machine.disk import Scratch

_MANY = 1 << 24  # characters; fewer stay a list
_AT_ONCE = 4096
_NONE, _MISSING, _OTHER = -1, -2, -3  # cells that are not written; number n of a heap's others is _OTHER - n
_PLAIN = frozenset((str, int, float, bool, type(None)))
_from_json = json.JSONDecoder().raw_decode
_JSON = 1 << 62  # is added to the number of what is written as JSON


class Heap:
    """Byte strings by number, one behind the other in a file; the first one is empty.

    Attributes:
        others: cells of which there is no byte string, in memory.
    """

    def __init__(self) -> None:
        self.others: list[Any] = []
        self._bytes, self._ends = Scratch(np.uint8, many=_MANY), Scratch(np.int64, many=_MANY // 8)
        self._ends.append(np.zeros(2, np.int64))

    def __len__(self) -> int:
        return len(self._ends.values) - 1

    def add(self, strings: Sequence[bytes]) -> None:
        """Put byte strings behind the others."""
        ends = np.cumsum(np.fromiter(map(len, strings), np.int64, len(strings)))
        self._ends.append(len(self._bytes.values) + ends)
        self._bytes.append(np.frombuffer(b"".join(strings), np.uint8))

    def __getitem__(self, number: int) -> memoryview:
        return self._bytes.values.data[self._ends.values[number] : self._ends.values[number + 1]]

    def read(self, numbers: np.ndarray) -> Iterator[memoryview]:
        """Yield some of them."""
        view = self._bytes.values.data
        begins, ends = self._ends.values[numbers].tolist(), self._ends.values[numbers + 1].tolist()
        for begin, end in zip(begins, ends, strict=True):
            yield view[begin:end]


class CompactCells(AsList[Any]):
    """Cells that become strings, lists and objects when they are asked for, each time anew.

    In memory is one number a cell, 8 bytes: which byte string of a heap it is, or which other object there.

    Args:
        cells: the first ones.
        heap: which holds other cells, too; None: one of their own.
    """

    def __init__(self, cells: Iterable[Any] = (), heap: Heap | None = None) -> None:
        self._heap = Heap() if heap is None else heap
        self._parts = [np.empty(0, np.int64)]
        self._length = 0
        self.extend(cells)

    def extend(self, cells: Iterable[Any]) -> None:
        """Put cells behind the others."""
        cells = iter(cells)
        while part := list(islice(cells, _AT_ONCE)):
            written: list[bytes] = []
            self._append(np.fromiter((self._write(cell, written) for cell in part), np.int64, len(part)))
            self._heap.add(written)

    def _write(self, cell: Any, written: list[bytes]) -> int:
        """Return the number of a cell, which is written behind others if it has to be."""
        if type(cell) is str:
            written.append(cell.encode("utf-8", "surrogatepass"))
            return len(self._heap) + len(written) - 1
        if cell is None:
            return _NONE
        if cell is MISSING:
            return _MISSING
        if type(cell) in (list, dict) and (told := _as_json(cell)) is not None:
            written.append(told)
            return _JSON + len(self._heap) + len(written) - 1
        self._heap.others.append(cell)
        return _OTHER - (len(self._heap.others) - 1)

    def _append(self, numbers: np.ndarray) -> None:
        self._parts.append(numbers)
        self._length += len(numbers)

    @property
    def _numbers(self) -> np.ndarray:
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        return self._parts[0]

    def take(self, rows: Sequence[int]) -> CompactCells:
        """Return some of the cells, in the order given."""
        return self._like(self._numbers[np.asarray(rows, np.int64)])

    def filled(self, text: str) -> CompactCells:
        """Return the cells with a text for those that are None or MISSING."""
        number = len(self._heap)
        self._heap.add([text.encode("utf-8", "surrogatepass")])
        return self._like(np.where(np.isin(self._numbers, (_NONE, _MISSING)), number, self._numbers))

    def _like(self, numbers: np.ndarray) -> CompactCells:
        made = CompactCells(heap=self._heap)
        made._append(numbers)
        return made

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
        return self._cell(number, self._heap[max(number, 0) % _JSON])

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self._read(self._numbers[start : start + _AT_ONCE])

    def _read(self, numbers: np.ndarray) -> list[Any]:
        strings = self._heap.read(np.maximum(numbers, 0) % _JSON)
        return [self._cell(number, found) for number, found in zip(numbers.tolist(), strings, strict=True)]

    def _cell(self, number: int, written: memoryview) -> Any:
        if number >= _JSON:
            return _from_json(str(written, "ascii"))[0]
        if number >= 0:
            return str(written, "utf-8", "surrogatepass")
        if number == _NONE:
            return None
        return MISSING if number == _MISSING else self._heap.others[_OTHER - number]

    def __reduce__(self) -> tuple[Any, ...]:
        return CompactCells, (list(self),)  # a copy, here or in another process, has files of its own


def _as_json(cell: Any) -> bytes | None:
    """Return a list or an object as JSON, or None where that would give back another one."""
    try:
        told = json.dumps(cell) if _is_plain(cell) else None
    except (ValueError, RecursionError):  # too many digits, or too deep
        return None
    if told is None or ("\\ud" in told and _from_json(told)[0] != cell):  # two halves of a pair become one character
        return None
    return told.encode("ascii")


def _is_plain(cell: Any) -> bool:
    """Whether a cell is made of what JSON has a form for, and of no subclass of it."""
    kind = type(cell)
    if kind is dict:
        return all(type(key) is str for key in cell) and all(map(_is_plain, cell.values()))
    return kind in _PLAIN or (kind is list and all(map(_is_plain, cell)))


def compact(texts: Sequence[str]) -> Sequence[str]:
    """Return texts so that many of them take little memory, and few hold no file of others."""
    if not isinstance(texts, list | CompactCells):
        return texts
    if sum(map(len, texts)) < _MANY:
        return list(texts)
    return texts if isinstance(texts, CompactCells) else CompactCells(texts)
