"""Nobody but the user reaches Hydra's own keys: those name code, which a sweep would run."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nlp_transfer.composing.plain import leaves
from nlp_transfer.composing.shipped import CONF, GROUPS, locate_recipe, shipped_names
from nlp_transfer.errors import UserError
from nlp_transfer.settings import Settings


def refuse_foreign_code(folder: Path, name: str, words: Sequence[str]) -> None:
    """Refuse a recipe in whose folder some file changes Hydra's own keys, which name code that Hydra runs.

    Words typed on the command line may: they are the user's own.

    Raises:
        UserError: naming the key of Hydra.
    """
    typed = [word for word in words if word.lstrip("+~").startswith("hydra")]
    wanted = _hydra_keys(*locate_recipe(None), typed)
    for files in _choices(folder, [word for word in words if word not in typed]):
        found = _hydra_keys(folder, name, [*typed, *files])
        for key in wanted.keys() | found.keys():
            if wanted.get(key) != found.get(key):
                raise UserError(
                    f"{folder} changes {key}, a key of Hydra itself; type those of --multirun on the command line"
                )


def _choices(folder: Path, words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield every combination of files that the words choose (``strategy=probe,lora``); values choose none."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob

    values = {field.name for field in dataclasses.fields(Settings)} - set(GROUPS)
    options: list[list[str]] = []
    for word in OverridesParser.create().parse_overrides(list(words)):
        typed = str(word.input_line)
        key = typed.partition("=")[0]
        group = key.lstrip("+~")
        if "." in group or group in values:
            continue
        if word.is_choice_sweep() and not isinstance(word.value(), Glob):
            options.append([f"{key}={value}" for value in word.sweep_string_iterator()])
        elif word.is_sweep_override():  # whichever of the files there are
            files = {file.stem for file in (folder / group).glob("*.yaml")}
            options.append([f"{key}={each}" for each in sorted(files | set(shipped_names(group)))])
        else:
            options.append([typed])
    yield from itertools.product(*options)


def _hydra_keys(folder: Path, name: str, words: Sequence[str]) -> dict[str, Any]:
    """Return Hydra's own keys in the composition of a recipe, dotted, without those that say which one it is."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(config_dir=str(folder), version_base="1.3"):
        composed = compose(name, [f"hydra.searchpath=[pkg://{CONF}]", *words], return_hydra_config=True)
    keys = OmegaConf.to_container(composed.hydra)
    assert isinstance(keys, dict)
    return {
        f"hydra.{key}": value
        for key, value in leaves(keys)
        if not key.startswith(("runtime.", "overrides.", "job.name", "job.config_name", "job.override_dirname"))
    }
