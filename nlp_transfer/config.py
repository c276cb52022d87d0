"""From conf/, a recipe and the command line to plain settings: the only file that knows Hydra and OmegaConf.

Hydra composes and is left at once; nothing below this file sees its types. No key names code to import.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from nlp_transfer.errors import UserError, did_you_mean, one_of
from nlp_transfer.objectives.settings import TERM_SETTINGS
from nlp_transfer.settings import Settings
from nlp_transfer.strategies import STRATEGIES

CONF = "nlp_transfer.conf"
RECIPES = "nlp_transfer.recipes"
GROUPS = ("data", "encoder", "strategy", "objective")
# What does not change what is computed does not change which run it is.
NOT_IDENTITY = ("name", "output", "overwrite", "tracking", "predict")


def compose(recipe: str | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Return the settings of one run.

    Args:
        recipe: name of a shipped recipe, path of a YAML file, or None for the defaults of conf/.
        overrides: Hydra overrides such as ``strategy=lora`` or ``training.epochs=3``; they win.

    Raises:
        UserError: for anything unknown or of the wrong type, naming the key and what it could be.
    """
    folder, name = locate_recipe(recipe)
    if _is_resolved(folder / f"{name}.yaml"):
        return _change_resolved(folder, name, overrides)
    settings = from_plain(_composed(folder, name, overrides))
    return dataclasses.replace(settings, name=settings.name or _default_name(recipe, settings))


def _composed(folder: Path, name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Return what Hydra makes of a YAML file and overrides, as plain values."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    with _user_errors(overrides), initialize_config_dir(config_dir=str(folder), version_base="1.3"):
        composed = hydra_compose(name, [f"hydra.searchpath=[pkg://{CONF}]", *overrides])
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _is_resolved(path: Path) -> bool:
    """Return whether a file is a run's own config.yaml: every value in place and no defaults list."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        content = OmegaConf.load(path)
    except (OSError, ValueError, OmegaConfBaseException) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except Exception as error:  # the YAML parser's own errors have no common public base here
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    return "defaults" not in content


def _change_resolved(folder: Path, name: str, overrides: Sequence[str]) -> Settings:
    """Return the settings of a resolved file with overrides; a chosen group (``strategy=lora``) is taken from conf/."""
    chosen = {word.split("=")[0] for word in overrides if word.split("=")[0] in GROUPS}
    theirs = [word for word in overrides if word.lstrip("+~").split("=")[0].split(".")[0] in chosen]
    before = _composed(folder, name, [word for word in overrides if word not in theirs])
    conf, primary = locate_recipe(None)
    fresh = _composed(conf, primary, theirs) if theirs else {}
    settings = from_plain(before | {group: fresh[group] for group in chosen})
    if settings.name == _default_name(None, from_plain(before)):  # the name tells data and strategy
        settings = dataclasses.replace(settings, name=None)
    return dataclasses.replace(settings, name=settings.name or _default_name(None, settings))


def from_plain(plain: Mapping[str, Any]) -> Settings:
    """Check a plain mapping against the dataclasses and return the settings.

    Raises:
        UserError: for an unknown key or name, or a value of the wrong type.
    """
    plain = dict(plain)
    strategy = dict(plain.pop("strategy", None) or {"name": "finetune"})
    kind = STRATEGIES[one_of(strategy.pop("name", "missing"), STRATEGIES, "strategy.name")]
    terms = plain.pop("objective", None) or {"classify": {}}
    for term in terms:
        one_of(term, TERM_SETTINGS, "objective term")
    return dataclasses.replace(
        _checked(Settings, plain, ""),
        strategy=_checked(kind, strategy, "strategy."),
        objective={
            name: _checked(TERM_SETTINGS[name], knobs or {}, f"objective.{name}.") for name, knobs in terms.items()
        },
    )


def from_mapping(values: Mapping[str, Any]) -> list[str]:
    """Return keys with Python values as overrides: {"training": {"epochs": 3}} → ["training.epochs=3"]."""

    def written(value: Any) -> str:
        if isinstance(value, Mapping):
            return "{" + ",".join(f"{key}:{written(item)}" for key, item in value.items()) + "}"
        if isinstance(value, (list, tuple)):
            return "[" + ",".join(map(written, value)) + "]"
        if value is None or isinstance(value, (bool, int, float)):
            return json.dumps(value)
        return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"

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


def to_plain(settings: Settings) -> dict[str, Any]:
    """Return the settings as nested dicts, lists and scalars; `from_plain` takes them back."""
    plain = dataclasses.asdict(settings)
    names = {kind: name for name, kind in STRATEGIES.items()}
    return plain | {"strategy": {"name": names[type(settings.strategy)], **dataclasses.asdict(settings.strategy)}}


def to_yaml(settings: Settings) -> str:
    """Return the settings as a YAML file that `compose` takes as a recipe."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(to_plain(settings)))


def run_id(settings: Settings) -> str:
    """Return eight hex digits that depend on what is computed and nothing else: ranks and restarts agree on it."""
    identity = {key: value for key, value in to_plain(settings).items() if key not in NOT_IDENTITY}
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:8]


def locate_recipe(recipe: str | None) -> tuple[Path, str]:
    """Return the folder and the stem of the YAML file a recipe name or path means.

    Raises:
        UserError: for a file that does not exist or a name that is not shipped.
    """
    if recipe is None:
        return Path(str(resources.files(CONF))), "config"
    path = Path(recipe).expanduser()
    if path.suffix == ".yaml":
        if not path.is_file():
            raise UserError(f"recipe {recipe!r}: there is no such file")
        return path.resolve().parent, path.stem
    shipped = Path(str(resources.files(RECIPES)))
    one_of(recipe, shipped_names("recipes"), "recipe")
    return shipped, recipe


def shipped_names(what: str) -> list[str]:
    """Return the names shipped of "recipes" or of a group of conf/ ("data", "encoder", "strategy", "objective")."""
    folder = Path(str(resources.files(RECIPES if what == "recipes" else CONF))) / ("" if what == "recipes" else what)
    return sorted(path.stem for path in folder.glob("*.yaml") if path.stem != "base")


def sweep(recipe: str | None, overrides: Sequence[str], job: Callable[[list[str]], float | None]) -> None:
    """Hand overrides with several values to Hydra's sweeper, which calls `job` with each run's own overrides.

    The sweeper stays in this one process and a job starts its own: one sweeper a rank would let ranks choose apart.
    """
    import sys

    import hydra
    from hydra.core.hydra_config import HydraConfig

    folder, name = locate_recipe(recipe)

    @hydra.main(version_base="1.3", config_path=f"pkg://{CONF}", config_name="config")
    def one(_: Any) -> float | None:
        return job(list(HydraConfig.get().overrides.task))

    sys.argv = [sys.argv[0], "--config-dir", str(folder), "--config-name", name, "--multirun", *overrides]
    one()


def _default_name(recipe: str | None, settings: Settings) -> str:
    if recipe is not None:
        return Path(recipe).stem
    data = settings.data
    source = data.embedded or data.path or data.train or data.hub or "data"
    strategy = to_plain(settings)["strategy"]["name"]
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{Path(source).stem}-{strategy}")


def _checked(kind: type, values: Mapping[str, Any], prefix: str) -> Any:
    """Return an instance of a settings dataclass made of plain values, every key and type checked."""
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

    try:
        merged = OmegaConf.merge(_writable(OmegaConf.structured(kind)), OmegaConf.create(dict(values)))
        return OmegaConf.to_object(merged)
    except ConfigKeyError as error:
        full = str(error.full_key or error.key)
        parent, _, key = full.rpartition(".")
        known = _fields_at(kind, parent)
        raise UserError(
            f"{prefix}{full} is not a known key{did_you_mean(key, known)}; known here: {', '.join(known)}"
        ) from None
    except OmegaConfBaseException as error:
        raise UserError(f"{prefix}{error.full_key}: {str(error.msg).splitlines()[0]}") from None


def _writable(node: Any) -> Any:
    """Return a structured config whose frozen dataclasses may be merged into."""
    from omegaconf import OmegaConf

    OmegaConf.set_readonly(node, False)
    for key in node:
        if not OmegaConf.is_missing(node, key) and OmegaConf.is_dict(node[key]):
            _writable(node[key])
    return node


def _fields_at(kind: Any, path: str) -> list[str]:
    """Return the field names of the settings class found by following a dotted path."""
    import typing

    for part in path.split(".") if path else []:
        kind = typing.get_type_hints(kind)[part]
    return [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []


@contextmanager
def _user_errors(overrides: Sequence[str]) -> Iterator[None]:
    """Turn Hydra's and OmegaConf's errors into one sentence that names the key and what it could be."""
    from hydra.errors import HydraException
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    try:
        yield
    except MissingMandatoryValue as error:
        key = error.full_key
        raise UserError(f"{key} has no value: set it on the command line ({key}=...) or in the recipe") from None
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # Hydra raises plain ones too
        raise UserError(_explain(error, overrides)) from None


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    for word in overrides:
        if not _is_override(word):
            return (
                f"{word!r} cannot be read as key=value; a value with other letters than English ones or any of "
                "= , : ( ) [ ] { } ~ needs quotes of its own, and others around them for the shell: "
                "'data.path=\"a=b.csv\"'"
            )
    text = str(error).strip()
    cause = error.__cause__
    unknown = re.search(r"Could not override '([^']+)'", text)
    group = re.search(r"Could not (?:find|override) '([^'/]+)/([^']+)'", text) or re.search(
        r"In '.*': Could not find '([^'/]+)/([^']+)'", text
    )
    if group:
        known = shipped_names(group[1])
        return f"{group[1]}={group[2]} is not known{did_you_mean(group[2], known)}; choose from: {', '.join(known)}"
    if unknown:
        key = unknown[1]
        known = _every_key()
        return f"{key} is not a known key{did_you_mean(key, known)}; `nlp-transfer plan --cfg` lists all"
    detail = f" ({str(cause).splitlines()[0]})" if cause else ""
    return " ".join(text.split()) + detail + (f"; overrides were: {' '.join(overrides)}" if overrides else "")


def _is_override(word: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return bool(parsed.key_or_group)


def _every_key() -> list[str]:
    """Return every dotted key of the default configuration."""

    def walk(node: Any, prefix: str) -> Iterator[str]:
        for key, value in node.items():
            yield f"{prefix}{key}"
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")

    return list(walk(to_plain(compose()), ""))
