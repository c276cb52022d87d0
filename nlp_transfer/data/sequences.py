"""Sequences of cells: lists if short, compact containers if long, with common operations; imports no numpy."""

from __future__ import annotations

import json
from array import array
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from nlp_transfer.data.listlike import ListLike

if TYPE_CHECKING:
    import numpy as np

MANY_ROWS = 100_000  # shorter sequences are lists
_CHUNK = 4096  # cells

Value = TypeVar("Value")
Equal = TypeVar("Equal", bound=Hashable)


def cells_of(cells: Iterable[Value], count: int) -> Sequence[Value]:
    """Return `count` cells of any type as a list or as `CompactCells`."""
    if count < MANY_ROWS:
        return list(cells)
    from nlp_transfer.data.compact import CompactCells  # needs numpy; settings are checked without

    return CompactCells(cells)


def integers_of(values: Iterable[int], count: int) -> Sequence[int]:
    """Return `count` integers as a list or an array."""
    return list(values) if count < MANY_ROWS else array("q", values)


def floats_of(values: Iterable[float], count: int) -> Sequence[float]:
    """Return `count` floats as a list or an array."""
    return list(values) if count < MANY_ROWS else array("d", values)


def array_for(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Return an uninitialised array with one entry per row, backed by a file if there are many rows."""
    import numpy as np

    from nlp_transfer.machine.disk import scratch

    return np.empty(shape, dtype) if shape[0] < MANY_ROWS else scratch(shape, np.dtype(dtype))


def interned(values: Iterable[Equal]) -> list[Equal]:
    """Return the values with equal ones replaced by one object; saves memory where few are distinct."""
    first: dict[Equal, Equal] = {}
    return [first.setdefault(value, value) for value in values]


def take(values: Sequence[Value], rows: Sequence[int]) -> Sequence[Value]:
    """Return the values at these indices, in the order given."""
    if isinstance(rows, range) and rows == range(len(values)):
        return values
    if isinstance(values, list | tuple):
        return [values[row] for row in rows]
    if isinstance(values, array):
        return cast(Sequence[Value], array(values.typecode, map(values.__getitem__, rows)))
    if isinstance(values, range):
        return cast(Sequence[Value], rows if values == range(len(values)) else [values[row] for row in rows])
    return cast(Sequence[Value], cast(Any, values).take(rows))


def concatenated(values: Sequence[Value], others: Sequence[Value]) -> Sequence[Value]:
    """Return values followed by others."""
    both = chain(values, others)
    if isinstance(values, list) and not isinstance(others, ListLike):
        return list(both)
    if isinstance(values, array):
        return cast(Sequence[Value], array(values.typecode, cast(Any, both)))
    if isinstance(values, range):
        return cast(Sequence[Value], integers_of(cast(Any, both), len(values) + len(others)))
    if isinstance(values, Repeated) or isinstance(others, Repeated):
        return cast(Sequence[Value], floats_of(cast(Any, both), len(values) + len(others)))
    return cells_of(both, len(values) + len(others))


def json_of(parts: Sequence[Any]) -> Iterator[str]:
    """Yield a list as JSON in pieces; sequences in it are encoded in chunks, so that not all texts are copied."""
    yield "["
    for number, part in enumerate(parts):
        yield ", " * bool(number)
        if part is None or isinstance(part, str):
            yield json.dumps(part)
            continue
        yield "["
        for start in range(0, len(part), _CHUNK):
            yield ", " * bool(start) + json.dumps(list(part[start : start + _CHUNK]))[1:-1]
        yield "]"
    yield "]"


class Numbered(ListLike[str]):
    """Names of a prefix and a number, counted from 1, that are built when accessed."""

    def __init__(self, prefix: str, numbers: Sequence[int]) -> None:
        self.prefix, self.numbers = prefix, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [f"{self.prefix}{number + 1}" for number in self.numbers[index]]
        return f"{self.prefix}{self.numbers[index] + 1}"

    def take(self, rows: Sequence[int]) -> Numbered:
        """Return the names at these indices, in the order given."""
        return Numbered(self.prefix, take(self.numbers, rows))


class Repeated(ListLike[float]):
    """A sequence of `count` equal floats."""

    def __init__(self, value: float, count: int) -> None:
        self._value, self._count = value, count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> float: ...
    @overload
    def __getitem__(self, index: slice) -> list[float]: ...
    def __getitem__(self, index: int | slice) -> float | list[float]:
        selected = range(self._count)[index]
        return self._value if isinstance(selected, int) else [self._value] * len(selected)

    def take(self, rows: Sequence[int]) -> Repeated:
        """Return the values at these indices."""
        return Repeated(self._value, len(rows))


def repeated(value: float, count: int) -> Sequence[float]:
    """Return a sequence of `count` equal floats."""
    return [value] * count if count < MANY_ROWS else Repeated(value, count)


def numbered(prefix: str, numbers: Sequence[int]) -> Sequence[str]:
    """Return the prefix followed by each number plus 1."""
    names = Numbered(prefix, numbers)
    return list(names) if len(numbers) < MANY_ROWS else names
