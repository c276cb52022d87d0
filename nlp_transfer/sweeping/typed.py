"""Check the words of --multirun that are for Hydra's launcher and sweeper, and find the keys that are swept."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from nlp_transfer.errors import UserError, did_you_mean
from nlp_transfer.sweeping.settings import LauncherSettings, SearchSettings

_LAUNCHERS = ("basic", LauncherSettings.name)
_SBATCH = "hydra.launcher.slurm"


def check_hydra_words(words: Sequence[str]) -> None:
    """Refuse unknown keys of our launcher and sweeper, and intervals, which only a search supports.

    Raises:
        UserError: naming the word.
    """
    values = {word.lstrip("+").partition("=")[0]: word.partition("=")[2] for word in words}
    launcher, sweeper = values.get("hydra/launcher", "basic"), values.get("hydra/sweeper", "basic")
    if launcher not in _LAUNCHERS:
        raise UserError(
            f"hydra/launcher={launcher} is not known{did_you_mean(launcher, _LAUNCHERS)}: use "
            "hydra/launcher=accelerate, with hydra.launcher.jobs=4 for four runs at once, with "
            "hydra.launcher.where=slurm on a cluster"
        )
    for key in values:
        if key.startswith(LauncherSettings.prefix):
            _check_key(key, LauncherSettings, chosen=launcher)
        elif key.startswith(SearchSettings.prefix) and (sweeper == "optuna" or _known(key, SearchSettings)):
            _check_key(key, SearchSettings, chosen=sweeper)
    if sweeper == "basic":
        for word in words:
            if _parsed(word).is_interval_sweep():
                raise UserError(f"{word}: all values of an interval cannot be tried; add hydra/sweeper=optuna")


def for_hydra(word: str) -> str:
    """Return the word as Hydra accepts it: keys of hydra.launcher.slurm are in no file, so they need a +."""
    return f"+{word}" if word.startswith((f"{_SBATCH}.", f"{_SBATCH}=")) else word


def swept_keys(words: Sequence[str]) -> list[str]:
    """Return the keys that differ from run to run."""
    return [parsed.key_or_group for word in words if (parsed := _parsed(word)).is_sweep_override()]


def _check_key(key: str, kind: type[LauncherSettings] | type[SearchSettings], *, chosen: str) -> None:
    group = kind.prefix.removesuffix(".").replace(".", "/")
    if chosen != kind.name:
        raise UserError(f"{key} is a key of {group}={kind.name}; add that")
    if not _known(key, kind):
        known = [field.name for field in dataclasses.fields(kind)]
        name = key.removeprefix(kind.prefix)
        raise UserError(f"{key} is not a known key{did_you_mean(name, known)}; known here: {', '.join(known)}")


def _known(key: str, kind: type[LauncherSettings] | type[SearchSettings]) -> bool:
    name = key.removeprefix(kind.prefix).partition(".")[0]  # hydra.launcher.slurm.account
    return name in {field.name for field in dataclasses.fields(kind)}


def _parsed(word: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(word)
