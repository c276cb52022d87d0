"""Conversion of results to plain JSON values and back, with nan as None and strict types."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any


def without_nan(values: Any) -> Any:
    """Return plain values with None in place of nan."""
    if isinstance(values, dict):
        return {key: without_nan(value) for key, value in values.items()}
    if isinstance(values, list):
        return [without_nan(value) for value in values]
    return None if isinstance(values, float) and math.isnan(values) else values


def read(kind: Any, value: Any, key: str) -> Any:
    """Convert a plain value to the declared type `kind`, such as a dataclass; None becomes nan for a float.

    Raises:
        ValueError: naming the key that is missing or of another type.
    """
    base, parts = typing.get_origin(kind), typing.get_args(kind)
    if base is types.UnionType:
        return None if value is None else read(parts[0], value, key)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        fields = typing.get_type_hints(kind)
        if missing := fields.keys() - value.keys():
            raise ValueError(f"{key} lacks {min(missing)}")
        dataclass = typing.cast(type, kind)
        return dataclass(**{name: read(field, value[name], f"{key}.{name}") for name, field in fields.items()})
    if base is list and isinstance(value, list):
        return [read(parts[0], each, f"{key}.{place}") for place, each in enumerate(value)]
    if base is dict and isinstance(value, dict):
        return {read(str, name, key): read(parts[1], each, f"{key}.{name}") for name, each in value.items()}
    if kind is float and (value is None or type(value) in (int, float)):
        return math.nan if value is None else float(value)
    if type(value) is not kind:
        raise ValueError(f"{key}={str(value)[:40]} is of another type")
    if kind is str:
        value.encode()  # raises for a lone surrogate, which JSON allows but which cannot be printed
    return value
