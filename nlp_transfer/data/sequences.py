"""Few values as lists, many in little memory; what is done to either alike. It needs no numpy and knows no columns."""

from __future__ import annotations

import json
from array import array
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from nlp_transfer.data.listlike import AsList

if TYPE_CHECKING:
    import numpy as np

MANY_ROWS = 100_000  # fewer stay lists
_AT_ONCE = 4096

Value = TypeVar("Value")
Equal = TypeVar("Equal", bound=Hashable)


def cells_of(cells: Iterable[Value], count: int) -> Sequence[Value]:
    """Return so many cells of whatever kind."""
    if count < MANY_ROWS:
        return list(cells)
    from nlp_transfer.data.compact import CompactCells  # needs numpy; settings are checked without

    return CompactCells(cells)


def integers_of(values: Iterable[int], count: int) -> Sequence[int]:
    """Return so many integers."""
    return list(values) if count < MANY_ROWS else array("q", values)


def floats_of(values: Iterable[float], count: int) -> Sequence[float]:
    """Return so many floats."""
    return list(values) if count < MANY_ROWS else array("d", values)


def array_for(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Return an array for one value or more a row, which lies in a file if rows are many."""
    import numpy as np

    from nlp_transfer.machine.disk import scratch

    return np.empty(shape, dtype) if shape[0] < MANY_ROWS else scratch(shape, np.dtype(dtype))


def shared(values: Iterable[Equal]) -> list[Equal]:
    """Return values of which few differ: equal ones are one object."""
    first: dict[Equal, Equal] = {}
    return [first.setdefault(value, value) for value in values]


def take(values: Sequence[Value], rows: Sequence[int]) -> Sequence[Value]:
    """Return some of the values, in the order given."""
    if isinstance(rows, range) and rows == range(len(values)):
        return values
    if isinstance(values, list | tuple):
        return [values[row] for row in rows]
    if isinstance(values, array):
        return cast(Sequence[Value], array(values.typecode, map(values.__getitem__, rows)))
    if isinstance(values, range):
        return cast(Sequence[Value], rows if values == range(len(values)) else [values[row] for row in rows])
    return cast(Sequence[Value], cast(Any, values).take(rows))


def followed(values: Sequence[Value], others: Sequence[Value]) -> Sequence[Value]:
    """Return values and behind them others."""
    both = chain(values, others)
    if isinstance(values, list) and not isinstance(others, AsList):
        return list(both)
    if isinstance(values, array):
        return cast(Sequence[Value], array(values.typecode, cast(Any, both)))
    if isinstance(values, range):
        return cast(Sequence[Value], integers_of(cast(Any, both), len(values) + len(others)))
    if isinstance(values, Repeated) or isinstance(others, Repeated):
        return cast(Sequence[Value], floats_of(cast(Any, both), len(values) + len(others)))
    return cells_of(both, len(values) + len(others))


def json_of(parts: Sequence[Any]) -> Iterator[str]:
    """Yield a list as JSON; of a sequence in it some values at a time, or all texts would be in memory once more."""
    yield "["
    for number, part in enumerate(parts):
        yield ", " * bool(number)
        if part is None or isinstance(part, str):
            yield json.dumps(part)
            continue
        yield "["
        for start in range(0, len(part), _AT_ONCE):
            yield ", " * bool(start) + json.dumps(list(part[start : start + _AT_ONCE]))[1:-1]
        yield "]"
    yield "]"


class Numbered(AsList[str]):
    """Names that are made of a number, which is counted from 1 in them, when they are asked for."""

    def __init__(self, before: str, numbers: Sequence[int]) -> None:
        self.before, self.numbers = before, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [f"{self.before}{number + 1}" for number in self.numbers[index]]
        return f"{self.before}{self.numbers[index] + 1}"

    def take(self, rows: Sequence[int]) -> Numbered:
        """Return some of the names, in the order given."""
        return Numbered(self.before, take(self.numbers, rows))


class Repeated(AsList[float]):
    """One float, so many times."""

    def __init__(self, value: float, count: int) -> None:
        self._value, self._count = value, count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> float: ...
    @overload
    def __getitem__(self, index: slice) -> list[float]: ...
    def __getitem__(self, index: int | slice) -> float | list[float]:
        found = range(self._count)[index]
        return self._value if isinstance(found, int) else [self._value] * len(found)

    def take(self, rows: Sequence[int]) -> Repeated:
        """Return as many as there are rows."""
        return Repeated(self._value, len(rows))


def repeated(value: float, count: int) -> Sequence[float]:
    """Return one float, so many times."""
    return [value] * count if count < MANY_ROWS else Repeated(value, count)


def numbered(before: str, numbers: Sequence[int]) -> Sequence[str]:
    """Return a name a number, counted from 1."""
    names = Numbered(before, numbers)
    return list(names) if len(numbers) < MANY_ROWS else names
