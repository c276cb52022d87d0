"""Parse the cells of a label column into names, sets of names, distributions over names, or numbers.

Integers are class names like any other ("5"); names are never trimmed or case-folded. Whether a name is in the label
set is checked in ``task``.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import chain
from typing import Any, cast

from nlp_transfer.data.missing import MISSING
from nlp_transfer.data.sequences import cells_of, floats_of, interned
from nlp_transfer.errors import UserError, one_of
from nlp_transfer.wording import listed

Label = str | float | tuple[str, ...] | dict[str, float]
"""A name (single_label, ordinal), a number (regression), names (multi_label), or name → probability (soft labels)."""
Where = Callable[[int], str]
"""Row → its place in the source, for messages."""

PROBLEMS = ("single_label", "multi_label", "ordinal", "regression")
NAME_HERE = "{}"  # placeholder for the label's name in `data.label_texts`
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
LARGEST = 3.4028234663852886e38  # of float32
_LARGEST_TARGET = 1e15  # squares of errors and of weights, which may be larger, are computed in float32
_REGRESSION_VALUES = 20  # more distinct fractional numbers than this are a measurement, not classes
_SUM_TOLERANCE = 1e-3
_ONE_EACH = (
    "problem type multi_label, because the labels are lists, each of one label here; where no row can have several, "
    "write the label itself"
)


def is_number(text: str) -> bool:
    """Return whether a text is exactly one decimal number."""
    return _NUMBER.fullmatch(text) is not None


def numbers_first(name: str) -> tuple[Decimal, str]:
    """Return the sort key of a numeric name; exact at any length."""
    return Decimal(name), name


def name_of(value: Any) -> str | None:
    """Return the canonical name of a cell, or None if it cannot be a name.

    A string is itself, booleans are ``true`` and ``false``, an integer is its digits, a finite float is the shortest
    string that reads back as the same float (``1.0``, never ``1``).
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    return None


def number_of(value: Any) -> float | None:
    """Return a cell as a finite number in the range of float32, which models compute in; None if it is not one."""
    number = _finite(value)
    return None if number is None or abs(number) > LARGEST else number


def _finite(value: Any) -> float | None:
    """Return a cell as a finite number, or None if it is not one."""
    if isinstance(value, str):
        value = float(value) if is_number(value) else math.nan
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    try:
        number = float(value)
    except (OverflowError, ValueError):  # ValueError: a Decimal that is a signaling NaN
        return None
    return number if math.isfinite(number) else None


def is_missing(value: Any) -> bool:
    """Return whether a cell is empty: no such key, null, or only white space."""
    return value is None or value is MISSING or (isinstance(value, str) and not value.strip())


def check_problem(problem: str, separator: str | None) -> None:
    """Check the settings `problem` and `label_separator`.

    Raises:
        UserError: for an unknown problem type, or a separator with a problem type that has one label per row.
    """
    one_of(problem, ("auto", *PROBLEMS), "data.problem")
    if separator is not None and problem not in ("auto", "multi_label"):
        raise UserError(
            f"data.label_separator={separator!r} is for several labels per row, but data.problem={problem}; leave it "
            "out, or set data.problem=multi_label"
        )
    if separator == "":
        raise UserError("data.label_separator cannot be empty; leave it null for one label per row")


def resolve_problem(values: Sequence[Any], *, problem: str, separator: str | None) -> tuple[str, str | None]:
    """Return the problem type and, where it is a guess that a user should know of, a note about it.

    Args:
        values: the label cells of the training rows.
        problem: the setting: a problem type, or auto.
        separator: the setting `label_separator`.
    """
    if separator is not None:
        return "multi_label", None
    if problem != "auto":
        return problem, None
    present = (value for value in values if not is_missing(value))
    first = next(present, None)
    if isinstance(first, list | tuple):
        one_each = len(first) == 1 and all(isinstance(value, list | tuple) and len(value) == 1 for value in present)
        return "multi_label", _ONE_EACH if one_each else None
    numbers = array("d")
    for number in map(_finite, chain([first], present)):
        if number is None:
            return "single_label", None
        numbers.append(number)
    import numpy as np  # settings are checked without

    distinct = np.unique(np.frombuffer(numbers))
    if len(distinct) <= _REGRESSION_VALUES:
        return "single_label", None
    if any(distinct % 1):
        return "regression", (
            f"problem type regression, because the labels are {len(distinct):,} different numbers with fractions; set "
            "data.problem if they are classes"
        )
    are_consecutive = distinct[-1] - distinct[0] < len(distinct)  # as numbers of classes are
    return "single_label", None if are_consecutive else (
        f"problem type single_label, because the labels are {len(distinct):,} different whole numbers; set "
        "data.problem=regression if they are measurements"
    )


def read_labels(values: Sequence[Any], *, problem: str, separator: str | None, where: Where) -> Sequence[Label]:
    """Parse label cells for one problem type.

    Raises:
        UserError: with the place, for a missing label and for a cell that is not a label of this problem type.
    """
    _refuse_missing(values, separator, where)
    if problem == "regression":
        return floats_of((_number(value, where, row) for row, value in enumerate(values)), len(values))
    soft = any(isinstance(value, Mapping) for value in values)
    if problem == "multi_label":
        _refuse_vectors(values, where)
        items = (
            (row, item)
            for row, value in enumerate(values)
            if isinstance(value, list | tuple)
            for item in value
            if not is_missing(item)
        )
        _refuse_mixed(items, where)
        sets = (_several(value, separator, where, row) for row, value in enumerate(values))
        if not soft:
            return _interned_sets(cast(Iterator[tuple[str, ...]], sets))
        known: dict[Label, Label] = {}  # some rows have sets of names, others soft labels
        labels = (label if isinstance(label, dict) else known.setdefault(label, label) for label in sets)
        return cells_of(labels, len(values))
    _refuse_mixed(enumerate(values), where)
    if soft:
        return cells_of((_distribution(value, where, row) for row, value in enumerate(values)), len(values))
    return interned(_name(value, where, row) for row, value in enumerate(values))


def _interned_sets(sets: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return the sets of labels so that equal sets, and equal names in them, are one object."""
    first: dict[str, str] = {}
    return interned(tuple(first.setdefault(name, name) for name in names) for names in sets)


def _refuse_missing(values: Sequence[Any], separator: str | None, where: Where) -> None:
    missing = [row for row, value in enumerate(values) if is_missing(value) and not (separator and value == "")]
    if len(missing) == len(values) > 1:
        raise UserError(
            f"{where(0)}: the label is missing, as it is in all {len(values):,} rows; fill it in: rows without one can "
            "be used neither for training nor for measuring"
        )
    if missing:
        raise UserError(f"{listed(missing, where, between='; ')}: the label is missing; fill it in or remove the row")


def _refuse_vectors(values: Sequence[Any], where: Where) -> None:
    """Refuse indicator or probability vectors: read as lists of names, [0, 1] and [1, 0] would mean the same.

    Vectors are lists of one length with numbers from 0 to 1 that cannot all be names, because there is a fraction, a
    repeated number, or the same numbers in two orders.
    """
    sizes: set[int] = set()
    orders: dict[frozenset[float], list[float]] = {}
    are_vectors = False
    for value in values:
        if not isinstance(value, list | tuple) or not all(isinstance(item, int | float) for item in value):
            return
        sizes.add(len(value))
        if len(sizes) > 1 or not all(0 <= item <= 1 for item in value):
            return
        distinct, numbers = frozenset(value), list(value)
        are_vectors |= len(distinct) < len(numbers) or any(item % 1 for item in numbers)
        are_vectors |= orders.setdefault(distinct, numbers) != numbers
    if are_vectors and sizes != {1}:
        raise UserError(
            f"{where(0)}: {str(values[0])[:40]} has a number for each label, as all rows do, but a list holds the "
            'names of the labels that are true, such as ["a", "c"]; probabilities are written {"a": 0.3, "b": 0.9}'
        )


def _refuse_mixed(values: Iterable[tuple[int, Any]], where: Where) -> None:
    """Refuse (row, value) pairs of several types, where 1 and "1", or 1 and 1.0, might be one label or two."""
    types: dict[type, tuple[int, Any]] = {}
    for row, value in values:
        types.setdefault(type(value), (row, value))
    first: dict[str, int] = {}
    for row, value in types.values():
        first.setdefault(_type_name(value), row)
    if len(first) > 1:
        (one, row), (other, other_row) = list(first.items())[:2]
        raise UserError(
            f"{where(other_row)}: the label is {other} here but {one} in {where(row)}; write all labels of a column in "
            "one way (measurements: data.problem=regression)"
        )


def _type_name(value: Any) -> str:
    """Name the type of a cell for a message."""
    kinds: tuple[tuple[Any, str], ...] = (
        (str, "text"),
        (bool, "true/false"),
        (int, "a whole number"),
        (float, "a decimal number"),
        ((list, tuple), "a list"),
        (Mapping, "an object"),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), f"a {type(value).__name__}")


def _name(value: Any, where: Where, row: int) -> str:
    name = name_of(value)
    if name is None:
        hint = {
            "a list": "one name per row is expected; for several set data.problem=multi_label",
            "a decimal number": "it is not finite",
        }.get(_type_name(value), "write it as text")
        raise UserError(f"{where(row)}: {_type_name(value)} ({str(value)[:40]}) cannot be a label; {hint}")
    return name


def _number(value: Any, where: Where, row: int) -> float:
    number = number_of(value)
    if number is None:
        raise UserError(
            f"{where(row)}: {str(value)[:40]!r} is not a number up to {LARGEST:.1e}, which data.problem=regression "
            "needs; decimals are written with a point"
        )
    if abs(number) > _LARGEST_TARGET:
        raise UserError(
            f"{where(row)}: {number:g} is too large for data.problem=regression, which computes squares in single "
            f"precision; divide all labels by one number so that none is beyond {_LARGEST_TARGET:.0e}"
        )
    return number


def _several(value: Any, separator: str | None, where: Where, row: int) -> tuple[str, ...] | dict[str, float]:
    """Parse a multi_label cell: a list, a string with separators, or a mapping to probabilities."""
    if isinstance(value, Mapping):
        return _probabilities(value, where, row)
    if separator is not None:
        if not isinstance(value, str):
            raise UserError(
                f"{where(row)}: {_type_name(value)} cannot be split at data.label_separator; it is for text"
            )
        parts: Sequence[Any] = [part.strip() for part in value.split(separator)] if value else []
    elif isinstance(value, list | tuple):
        parts = value
    else:
        raise UserError(
            f"{where(row)}: {_type_name(value)} ({str(value)[:40]!r}) is not a list of labels, which "
            "data.problem=multi_label needs; use lists (JSONL, Parquet) or set data.label_separator"
        )
    names = tuple(_name(part, where, row) for part in parts if not is_missing(part))
    if len(names) != len(parts):
        raise UserError(f"{where(row)}: an empty name among the labels {value!r}")
    if len(set(names)) != len(names):
        raise UserError(f"{where(row)}: a label appears twice in {value!r}")
    return names


def _distribution(value: Mapping[Any, Any], where: Where, row: int) -> dict[str, float]:
    """Parse soft labels that exclude each other, so that their probabilities sum to 1."""
    probabilities = _probabilities(value, where, row)
    total = sum(probabilities.values())
    if abs(total - 1) > _SUM_TOLERANCE:
        raise UserError(
            f"{where(row)}: the probabilities sum to {total:.4g}, not to 1; correct them, or set "
            "data.problem=multi_label if the labels do not exclude each other"
        )
    return probabilities


def _probabilities(value: Mapping[Any, Any], where: Where, row: int) -> dict[str, float]:
    probabilities = {}
    for key, share in value.items():
        if share is None:  # Parquet and Arrow give every row the keys of all rows
            continue
        number = number_of(share)
        if is_missing(key) or name_of(key) is None or number is None or not 0 <= number <= 1:
            raise UserError(f"{where(row)}: {key!r}: {share!r} is not a label with a probability between 0 and 1")
        probabilities[str(name_of(key))] = number
    return probabilities
