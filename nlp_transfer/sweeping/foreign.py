"""Only the command line may set Hydra's own keys: they can name code, which a sweep would run."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nlp_transfer.composing.hydra_state import initialized
from nlp_transfer.composing.plain import leaves
from nlp_transfer.composing.shipped import CONF, GROUPS, locate_recipe, shipped_names
from nlp_transfer.errors import UserError
from nlp_transfer.settings import Settings


def refuse_foreign_code(folder: Path, name: str, words: Sequence[str]) -> None:
    """Refuse a recipe if any file in its folder changes Hydra's own keys; words of the command line may do so.

    Raises:
        UserError: naming the key of Hydra.
    """
    hydra_words = [word for word in words if word.lstrip("+~").startswith("hydra")]
    expected = _hydra_keys(*locate_recipe(None), hydra_words)
    for choices in _choices(folder, [word for word in words if word not in hydra_words]):
        composed = _hydra_keys(folder, name, [*hydra_words, *choices])
        for key in expected.keys() | composed.keys():
            if expected.get(key) != composed.get(key):
                raise UserError(
                    f"{folder} changes {key}, a key of Hydra itself; give those of --multirun on the command line"
                )


def _choices(folder: Path, words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield every combination of files that the words choose (``strategy=probe,lora``), as override words."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob

    values = {field.name for field in dataclasses.fields(Settings)} - set(GROUPS)
    options: list[list[str]] = []
    for word in OverridesParser.create().parse_overrides(list(words)):
        line = str(word.input_line)
        key = line.partition("=")[0]
        group = key.lstrip("+~")
        if "." in group or group in values:
            continue
        if word.is_choice_sweep() and not isinstance(word.value(), Glob):
            options.append([f"{key}={value}" for value in word.sweep_string_iterator()])
        elif word.is_sweep_override():  # a glob: any of the files
            files = {file.stem for file in (folder / group).glob("*.yaml")}
            options.append([f"{key}={each}" for each in sorted(files | set(shipped_names(group)))])
        else:
            options.append([line])
    yield from itertools.product(*options)


def _hydra_keys(folder: Path, name: str, words: Sequence[str]) -> dict[str, Any]:
    """Return Hydra's own keys of a composed recipe, dotted, without those that identify the recipe itself."""
    from hydra import compose
    from omegaconf import OmegaConf

    with initialized(folder):
        composed = compose(name, [f"hydra.searchpath=[pkg://{CONF}]", *words], return_hydra_config=True)
    keys = OmegaConf.to_container(composed.hydra)
    assert isinstance(keys, dict)
    return {
        f"hydra.{key}": value
        for key, value in leaves(keys)
        if not key.startswith(("runtime.", "overrides.", "job.name", "job.config_name", "job.override_dirname"))
    }
