"""Translate key=value words, as users type them, to Hydra overrides, without Hydra misreading any value."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from nlp_transfer.composing.plain import shown, takes_text
from nlp_transfer.composing.shipped import GROUPS, shipped_names
from nlp_transfer.composing.yamlfile import refuse_functions, refuse_secret
from nlp_transfer.data import hub
from nlp_transfer.data.hints import quoted, shell_word
from nlp_transfer.data.paths import expanded, means_folder
from nlp_transfer.errors import UserError, one_of
from nlp_transfer.settings import DATA_LIMITS, Settings
from nlp_transfer.strategies.auto import Auto


def readable(word: str, *, sweep: bool = False) -> str:
    """Return a key=value word that Hydra can parse; a value outside its grammar is quoted as a text.

    Raises:
        UserError: for a word that is no override, several values outside a sweep, a broken list, or a reference to
            anything but another key.
    """
    key, _, value = word.partition("=")
    refuse_secret(key, value)
    refuse_functions(word)
    if key.lstrip("+~").startswith("hydra") and not sweep:
        raise UserError(f"{word}: keys of Hydra itself are only for --multirun")
    if (group := key.lstrip("+")) in GROUPS and group != key:
        raise UserError(f"{word}: {group} is chosen already; write {group}={value} to choose another")
    parsed = _parsed(word)
    if parsed is None:
        return _as_text(word, key, value, sweep=sweep)
    if parsed.is_sweep_override():
        if not sweep:
            as_list = "" if takes_text(Settings, key) else f"; as a list: '{key}=[{value}]'"
            value_of_one = f"{as_list}; as one text: {shell_word(key, value)}"
            raise UserError(
                f"{word} names several values: add --multirun for a run each{'' if key in GROUPS else value_of_one}"
            )
        return word
    result = parsed.value()
    names = result if isinstance(result, list) else [result]
    if key in GROUPS and not isinstance(result, dict) and not all(isinstance(name, str) and name for name in names):
        one_of(value, shipped_names(key), key)
    if isinstance(result, (bool, int, float)) and takes_text(Settings, key):  # or name=2024_01 would become 202401
        return f"{key}={quoted(value)}"
    # Hydra strips spaces and tabs around a text, but a delimiter may consist of them.
    return f"{key}={quoted(value)}" if value != value.strip() == result else word


def key_and_value(word: str) -> tuple[str, Any]:
    """Return the key and the plain value of a key=value word.

    Raises:
        UserError: see `readable`.
    """
    parsed = _parsed(readable(word))
    return parsed.key_or_group, parsed.value()


def encoder_words(word: str) -> list[str]:
    """Expand ``encoder=owner/name@revision`` and ``encoder=PATH`` to the words they abbreviate.

    Raises:
        UserError: for a path that does not exist.
    """
    key, _, value = word.partition("=")
    name, _, revision = value.partition("@")
    if key != "encoder" or "/" not in value or value in shipped_names("encoder"):
        return [word]
    if expanded(value).is_dir():
        return ["encoder=custom", f"encoder.name={quoted(value)}"]
    if means_folder(value):
        raise UserError(f"encoder={value!r}: there is no such folder")
    if not hub.is_name(name):
        return [word]
    pinned = [f"encoder.revision={quoted(revision)}"] if revision else []
    return ["encoder=custom", f"encoder.name={quoted(name)}", *pinned]


def with_strategy(recipe: str | None, words: Sequence[str]) -> list[str]:
    """Add strategy=finetune to words that set a key of a strategy without choosing one.

    The default strategy, `auto`, chooses the values of such keys itself. A recipe has to name its strategy.
    """
    keys = [word.lstrip("+~").partition("=")[0] for word in words]
    keys_of_auto = {f"strategy.{field.name}" for field in dataclasses.fields(Auto)}
    needs_strategy = any(key.startswith("strategy.") and key not in keys_of_auto for key in keys)
    if recipe is None and "strategy" not in keys and needs_strategy:
        return ["strategy=finetune", *words]
    return list(words)


def refuse_second_values(words: Sequence[str]) -> None:
    """Refuse two different values for one key.

    Raises:
        UserError: naming the key and both values.
    """
    values: dict[str, str] = {}
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        value = value.strip("\"'")
        if values.setdefault(key, value) != value:
            raise UserError(f"{key} is given twice, as {shown(values[key])} and as {shown(value)}; keep one of the two")


def from_mapping(values: Mapping[str, Any]) -> list[str]:
    """Convert a mapping of Python values to overrides: {"training": {"epochs": 3}} → ["training.epochs=3"]."""

    def written(value: Any) -> str:
        if isinstance(value, Mapping):
            return "{" + ",".join(f"{key}:{written(item)}" for key, item in value.items()) + "}"
        if isinstance(value, (list, tuple)):
            return "[" + ",".join(map(written, value)) + "]"
        if value is None or isinstance(value, (bool, int, float)):
            return json.dumps(value)
        return quoted(str(value))

    words: list[str] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and "." not in key:
            chosen = key == "strategy" and "name" in value  # {"strategy": {"name": "lora", ...}} chooses, then changes
            words += [f"strategy={value['name']}"] if chosen else []
            words += [
                f"{key}.{inner}={written(item)}" for inner, item in value.items() if not (chosen and inner == "name")
            ]
        else:
            words.append(f"{key}={written(value)}")
    return words


def _as_text(word: str, key: str, value: str, *, sweep: bool) -> str:
    """Return a word with its value quoted, because Hydra cannot parse it otherwise."""
    as_text = f"{key}={quoted(value)}"
    if _parsed(as_text) is None:
        raise UserError(f"{word!r} cannot be read as key=value")
    if value.startswith(("[", "{")) or (sweep and "," in value):
        raise UserError(
            f"{word!r} cannot be read: in a list, a text of more than English letters and digits needs double quotes, "
            f'in a shell \'{key}=["très bon","bon"]\'; as one text: {shell_word(key, value)}'
        )
    return as_text


def _parsed(word: str) -> Any:
    """Return the override that Hydra parses from a word, or None if it cannot."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(word)
    except HydraException:
        return None
    return parsed if parsed.key_or_group else None


def typed_limits(words: Sequence[str]) -> list[str]:
    """Return the words that limit the number of rows."""
    parts = {word: word.lstrip("+").partition("=") for word in words}
    return [
        word for word, (key, _, value) in parts.items() if key.removeprefix("data.") in DATA_LIMITS and value != "null"
    ]
