"""Convert plain mappings to typed settings dataclasses, with errors that name the key, and nested keys to dotted ones.

This module knows no setting by name.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from nlp_transfer.errors import UserError, did_you_mean

_EXPECTED = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list[str]: "a list of texts, such as [a,b]",
    list[int]: "a list of whole numbers, such as [4,5]",
    list[float]: "a list of numbers, such as [0.9,0.99]",
    dict[str, Any]: "keys and values, such as {a: 1}",
}
_BOOLEANS = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)


def checked(kind: type, values: Any, prefix: str) -> Any:
    """Return an instance of a settings dataclass made from plain values, with every key and type checked.

    Raises:
        UserError: naming the key that is unknown or whose value has the wrong type.
    """
    types_of_keys = _field_types(kind)
    if not isinstance(values, Mapping):
        key = prefix.removesuffix(".")
        keys = ", ".join(prefix + name for name in types_of_keys)
        raise UserError(f"{key}={shown(values)} is not possible: {key} is a group of keys, {keys}")
    for key in values:
        if key not in types_of_keys:
            close = did_you_mean(str(key), types_of_keys)
            raise UserError(f"{prefix}{key} is not a known key{close}; known here: {', '.join(types_of_keys)}")
    factories = {field.name: field.default_factory for field in dataclasses.fields(kind)}
    return kind(
        **{key: _value(types_of_keys[key], value, f"{prefix}{key}", factories[key]) for key, value in values.items()}
    )


def _field_types(kind: Any) -> dict[str, Any]:
    """Return the type of every field of a settings dataclass; class variables are no fields."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _value(kind: Any, value: Any, key: str, default_factory: Any) -> Any:
    """Return a plain value converted to the type of a settings field; a default list serves as example in the error."""
    if dataclasses.is_dataclass(kind):
        return checked(typing.cast(type, kind), value, f"{key}.")
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value is None and types.NoneType in kinds:
        return None
    try:
        return _converted(kinds[0], value)
    except (ValueError, TypeError, KeyError):
        expected = _EXPECTED[kinds[0]]
        if default_factory is not dataclasses.MISSING and isinstance(default_factory(), list) and default_factory():
            expected = f"a list, such as [{','.join(map(str, default_factory()))}]"
        expected += ", or null" * (types.NoneType in kinds)
        raise UserError(f"{key}={shown(value)} must be {expected}") from None


def _converted(kind: Any, value: Any) -> Any:
    """Return a value converted to a type without loss: a boolean is not a number, a fraction not a whole number."""
    base = typing.get_origin(kind) or kind
    if base is Any or (base is dict and isinstance(value, dict)):
        return value
    if base is list and isinstance(value, (list, tuple)):
        return [_converted(typing.get_args(kind)[0], item) for item in value]
    if base is bool:
        return _BOOLEANS[str(value).casefold()]
    if base is str and isinstance(value, (str, int, float)):
        return str(value)
    if base is int and type(value) in (int, str):
        return int(value)
    if base is float and type(value) in (int, float, str):
        return float(value)
    raise TypeError


def takes_text(settings: type, key: str) -> bool:
    """Return whether a dotted key of a settings dataclass is declared as a string; keys below `Any` are not."""
    kind: Any = settings
    for part in key.split("."):
        kind = _field_types(kind).get(part) if dataclasses.is_dataclass(kind) else None
    return str in (typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,))


def shown(value: Any) -> str:
    """Return a value as it is written in YAML or on the command line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def dotted(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted keys; a list is one value."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= dotted(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of every leaf in nested dicts and lists."""
    if isinstance(node, (dict, list)):
        for inner, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, f"{key}.{inner}")
    else:
        yield key.removeprefix("."), node
