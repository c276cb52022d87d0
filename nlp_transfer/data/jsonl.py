"""Strict reading of JSON objects, one per line or in one array: no repeated keys, no NaN."""

from __future__ import annotations

import datetime
import io
import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from nlp_transfer.data.table import Table, from_records
from nlp_transfer.data.textfile import SURROGATE
from nlp_transfer.errors import UserError

_IS_ARRAY = "{}: an array where one JSON object per line is expected; a file that is one array ends in .json"
_SHOWN = 5
_SPACE = re.compile(r"[ \t\r\n]*")


def read_json_lines(lines: Iterator[str], *, origin: str, chunk_rows: int | None = None) -> Iterator[Table]:
    """Yield the objects in tables of `chunk_rows` rows (None: one table); blank lines are skipped.

    A table also has the columns of earlier tables: which keys a row may lack must not depend on `chunk_rows`.

    Raises:
        UserError: with file and line, for a line that is not one JSON object.
    """
    records: list[dict[str, Any]] = []
    numbers: list[int] = []
    known: Iterable[str] = ()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if len(records) == chunk_rows:
            table = from_records(records, numbers, origin, known)
            yield table
            records, numbers, known = [], [], table.columns.keys()
        records.append(_object(line, f"{origin}:{number}"))
        numbers.append(number)
    if records:
        yield from_records(records, numbers, origin, known)


def read_json(lines: Iterator[str], *, origin: str) -> Table:
    """Return the objects of a .json file: an array of objects, or one object per line.

    Raises:
        UserError: with file and line, for anything else.
    """
    text = "".join(lines)
    if text.lstrip().startswith("["):
        return _array(text, origin)
    _refuse_one_object(text, origin)
    tables = list(read_json_lines(io.StringIO(text, newline=""), origin=origin))
    return tables[0] if tables else Table({}, origin, [])


def _refuse_one_object(text: str, origin: str) -> None:
    """Refuse a file that is one object over several lines."""
    text = text.strip()
    try:
        value = _DECODER.decode(text) if "\n" in text else None
    except (ValueError, RecursionError):  # one object per line, or malformed, which is reported with its line later
        return
    if isinstance(value, dict) and value:
        raise UserError(one_object(origin, value))


def one_object(origin: str, keys: Iterable[str]) -> str:
    """Return the message that a file or table is one object instead of rows."""
    keys = list(keys)
    shown = ", ".join(map(repr, keys[:_SHOWN])) + " ..." * (len(keys) > _SHOWN)
    return (
        f"{origin} is one object, with {shown}; rows are an array of objects, or one object per line: write those "
        "alone (pandas: orient='records')"
    )


def _array(text: str, origin: str) -> Table:
    """Decode an array element by element, to record the line of each row."""
    records: list[dict[str, Any]] = []
    numbers: list[int] = []
    position, line = text.index("[") + 1, 1 + text.count("\n", 0, text.index("["))
    counted = text.index("[")
    while True:
        position = _skip_space(text, position)
        line, counted = line + text.count("\n", counted, position), position
        if text.startswith("]", position) and not records:
            break
        try:
            value, position = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            at = error.lineno if isinstance(error, json.JSONDecodeError) else line
            raise UserError(_broken(f"{origin}:{at}", error)) from error
        records.append(_checked_object(value, f"{origin}:{line}"))
        numbers.append(line)
        position = _skip_space(text, position)
        if text.startswith("]", position):
            break
        if not text.startswith(",", position):
            at = line + text.count("\n", counted, position)
            raise UserError(
                f"{origin}:{at}: after an object comes a comma or the closing bracket; is the file cut off?"
            )
        position += 1
    rest = _skip_space(text, position + 1)
    if rest != len(text):
        raise UserError(f"{origin}:{1 + text.count(chr(10), 0, rest)}: text follows the end of the array")
    return from_records(records, numbers, origin)


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None  # the pattern matches the empty string
    return match.end()


def _object(line: str, place: str) -> dict[str, Any]:
    """Decode one line."""
    try:
        value = _DECODER.decode(line)
    except (ValueError, RecursionError) as error:
        raise UserError(_IS_ARRAY.format(place) if line.strip() == "[" else _broken(place, error)) from error
    if isinstance(value, list):
        raise UserError(_IS_ARRAY.format(place))
    return _checked_object(value, place)


def _checked_object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(
            f'{place}: {json.dumps(value)[:40]} is not a JSON object; a row looks like {{"text": "…", "label": "…"}}'
        )
    return value


def _broken(place: str, error: Exception) -> str:
    """Explain an error of the JSON parser and its likely cause."""
    if not isinstance(error, json.JSONDecodeError):
        return f"{place}: not valid JSON: {error}"
    message = f"{place}: not valid JSON: {error.msg} at character {error.colno}"
    if error.msg.startswith("Unterminated") or error.pos >= len(error.doc.rstrip()):
        return f"{message}; is the file cut off here, or a row written over several lines?"
    return f"{message}; a line holds one object alone" if error.msg == "Extra data" else message


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        repeated = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
        raise ValueError(f"the key {repeated!r} appears more than once in one object")
    return keys


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value; write null for a missing one")


def _finite_float(digits: str) -> float:
    """Parse a number with a fraction or an exponent; refuse one that overflows, since it could not be written back."""
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:40]} is larger than a number can be here; write it as text")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_float=_finite_float, parse_constant=_refuse_constant)


def json_line(row: dict[str, Any]) -> str:
    """Return a row as one line of JSON; lone surrogates, which cannot be encoded, are escaped, dates become strings.

    Raises:
        ValueError, TypeError: for NaN and infinite numbers, and for types without a JSON form.
    """
    line = json.dumps(row, ensure_ascii=False, allow_nan=False, default=_isoformat)
    return SURROGATE.sub(lambda half: f"\\u{ord(half[0]):04x}", line)


def _isoformat(value: Any) -> str:
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    raise TypeError(f"there is no JSON for a {type(value).__name__}")
