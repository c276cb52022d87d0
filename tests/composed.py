"""The settings that `compose` makes of keys and values, at a fraction of its time, which is that of a short run.

Hydra composes each choice of groups once per process; single values are then set in the result.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any

from nlp_transfer.composing.shipped import GROUPS
from nlp_transfer.composing.words import from_mapping
from nlp_transfer.config import compose, default_name, from_plain, to_plain
from nlp_transfer.settings import Settings

_TYPED = ("encoder.trust_remote_code",)  # counts only where it was typed


def settings_of(values: dict[str, Any]) -> Settings:
    """Return the settings that `compose` gives for these values; it is called where it does more than set values."""
    chosen = {key: value for key, value in values.items() if key in GROUPS and isinstance(value, str)}
    single = {key: value for key, value in values.items() if key not in chosen}
    plain = json.loads(_composed(tuple(chosen.items()))) | {"name": None}
    if all(_put(plain, key, value) for key, value in single.items()):
        settings = from_plain(plain)
        return dataclasses.replace(settings, name=settings.name or default_name(settings))
    return compose(None, from_mapping(values))


@functools.cache
def _composed(chosen: tuple[tuple[str, str], ...]) -> str:
    """Return the composed choices as JSON, which is immutable."""
    return json.dumps(to_plain(compose(None, from_mapping(dict(chosen)))))


def _put(plain: dict[str, Any], key: str, value: Any) -> bool:
    """Put a value in its place; return False where that may not be all that is to be done."""
    *groups, name = key.split(".")
    for group in groups:
        plain = plain.get(group)  # type: ignore[assignment]
        if not isinstance(plain, dict):
            return False
    if key in _TYPED or name not in plain or (plain[name] and isinstance(plain[name], dict)) or "$" in str(value):
        return False
    try:
        plain[name] = json.loads(json.dumps(value))
    except TypeError:
        return False
    return True
