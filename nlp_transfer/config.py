"""Compose the settings of a run from conf/, a recipe and the command line.

Only this module, `composing` and `sweeping` use Hydra; everything else sees plain dataclasses. No key may name code to
import.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

from nlp_transfer.composing.hydra_state import initialized
from nlp_transfer.composing.plain import checked, dotted, leaves, shown
from nlp_transfer.composing.shipped import CONF, GROUPS, locate_recipe, shipped_names
from nlp_transfer.composing.words import encoder_words, from_mapping, readable, refuse_second_values, with_strategy
from nlp_transfer.composing.yamlfile import check_values, read_yaml
from nlp_transfer.data.hints import shell_word
from nlp_transfer.data.needs import with_needed_rows
from nlp_transfer.data.paths import expanded, not_a_name
from nlp_transfer.encoder.source import CODE_OF_ADAPTERS
from nlp_transfer.errors import UserError, close_key, did_you_mean, one_of
from nlp_transfer.objectives.settings import TERM_SETTINGS
from nlp_transfer.settings import DATA_FILES, Settings
from nlp_transfer.strategies import STRATEGIES, Auto, Finetune

# Keys that do not change what is computed, and so are no part of a run's identity.
NOT_IDENTITY = (
    *("name", "output", "overwrite", "resume", "verify"),
    *("checkpoint", "cache", "report", "tracking", "predict", "hub", "serve", "demo", "export"),
    *("check", "rank", "compare", "meta"),
)
# Groups that belong to a run's identity only when they are used: older runs, made before these existed, keep their ids.
_OPTIONAL = ("pretraining", "continual", "multitask")
NAMES_OF_FILES = (
    *("output", "predict.input", "predict.output", "export.output", "report.output", "check.fix", "check.beside"),
    *("encoder.name", "cache.folder", "objective.distill.teacher", "continual.data"),
    *(f"data.{key}" for key in DATA_FILES),
)


def compose(recipe: str | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Return the settings of one run.

    Args:
        recipe: name of a shipped recipe, path of a YAML file, or None for the defaults of conf/.
        overrides: Hydra overrides such as ``strategy=lora`` or ``training.epochs=3``; they win.

    Raises:
        UserError: for anything unknown, of the wrong type or given twice, naming the key and its alternatives.
    """
    folder, name = locate_recipe(recipe)
    overrides = with_strategy(recipe, [each for word in overrides for each in encoder_words(word)])
    words = [readable(word) for word in overrides]
    refuse_second_values(overrides)
    if is_resolved(folder / f"{name}.yaml"):
        settings = _change_resolved(folder, name, words)
    else:
        settings = from_plain(_composed(folder, name, words))
        settings = dataclasses.replace(settings, name=settings.name or default_name(settings, recipe))
    trusting = ("encoder.trust_remote_code=", "encoder={")
    if settings.encoder.trust_remote_code and not any(word.startswith(trusting) for word in words):
        raise UserError(
            f"{folder / name}.yaml sets encoder.trust_remote_code=true, which lets the encoder run code of its own; "
            "read that code and then set the key yourself, on the command line"
        )
    return settings


def _composed(folder: Path, name: str, words: Sequence[str]) -> dict[str, Any]:
    """Compose a YAML file and overrides with Hydra; return plain values."""
    from hydra import compose as hydra_compose
    from omegaconf import OmegaConf

    # conf/ itself needs no further search path, and without that override Hydra is 0.13 s faster.
    search = [] if (folder, name) == locate_recipe(None) else [f"hydra.searchpath=[pkg://{CONF}]"]
    known = partial(_keys_beside, folder, name, words)
    with user_errors(words, known), initialized(folder):
        try:
            composed = hydra_compose(name, [*search, *words])
        except (AssertionError, AttributeError, LookupError, RecursionError, TypeError) as error:  # malformed YAML
            raise ValueError(f"{folder / name}.yaml cannot be composed") from error
        check_values(OmegaConf.to_container(composed))
        return _resolved(composed)


def _resolved(values: Any) -> dict[str, Any]:
    """Convert OmegaConf values to plain ones, with interpolations resolved."""
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(values, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def is_resolved(path: Path) -> bool:
    """Return whether a file is the config.yaml of a run: it has no defaults list and every key.

    Keys that are no part of a run's identity may be missing: an earlier version may have written the file.

    Raises:
        UserError: if it is neither that nor a recipe.
    """
    if path.parent == locate_recipe(None)[0]:  # conf/
        return False
    content = read_yaml(path)
    content = content if isinstance(content, dict) else {}
    _refuse_hydra(path, content)
    if "defaults" in content:
        return False
    if content.keys() >= {field.name for field in dataclasses.fields(Settings)} - {*NOT_IDENTITY, *_OPTIONAL}:
        return True
    chosen = [f"override {group}: {content[group]}" for group in GROUPS if isinstance(content.get(group), str)]
    instead = "".join(f" instead of `{choice.removeprefix('override ')}`" for choice in chosen[:1])
    raise UserError(
        f"{path} is not a recipe yet: it needs a defaults list; write "
        f"`defaults: [{', '.join(['config', *chosen, '_self_'])}]` at its top{instead}"
    )


def _refuse_hydra(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse a file that sets Hydra's own keys: they can name code, which a sweep would run."""
    chosen = " ".join(f"{key} {value}" for key, value in leaves(content.get("defaults")))
    header = re.search(r"^\s*#\s*@package", path.read_text(encoding="utf-8"), re.MULTILINE)
    if "hydra" in content or re.search(r"\bhydra\b|@", chosen) or header:
        raise UserError(
            f"{path}: a recipe cannot set keys of Hydra itself; give those of --multirun on the command line"
        )


def _change_resolved(folder: Path, name: str, words: Sequence[str]) -> Settings:
    """Return the settings of a run's config.yaml with overrides.

    A group that is chosen by name (``strategy=lora``), or that the file lacks, comes from conf/.
    """
    from omegaconf import OmegaConf

    content = read_yaml(folder / f"{name}.yaml")
    chosen = {word.split("=")[0] for word in words if word.split("=")[0] in GROUPS}
    chosen |= {field.name for field in dataclasses.fields(Settings)} - content.keys()
    of_chosen = [word for word in words if word.lstrip("+~").split("=")[0].split(".")[0] in chosen]
    changes = [word for word in words if word not in of_chosen]
    with user_errors(changes):  # Hydra is only needed for changes
        before = _composed(folder, name, changes) if changes else _resolved(OmegaConf.create(content))
    conf, primary = locate_recipe(None)
    fresh = _composed(conf, primary, of_chosen) if chosen else {}
    settings = from_plain(before | {group: fresh[group] for group in chosen})
    if settings.name == default_name(from_plain(before)):  # a default name depends on data and strategy: make it anew
        settings = dataclasses.replace(settings, name=None)
    return dataclasses.replace(settings, name=settings.name or default_name(settings))


def from_plain(plain: Mapping[str, Any]) -> Settings:
    """Check a plain mapping against the dataclasses and return the settings, with the validation rows that they need.

    Raises:
        UserError: for an unknown key or name, or a value of the wrong type.
    """
    plain = dict(plain)
    for group in GROUPS:
        chosen = plain.get(group)
        if chosen is not None and not isinstance(chosen, Mapping):
            choice = f"{group}: {shown(chosen)}"
            raise UserError(
                f"`{choice}` chooses nothing here: write `- override {choice}` in the recipe's defaults list, or "
                f"{group}={shown(chosen)} on the command line"
            )
    strategy, terms = (plain.pop(key, None) for key in ("strategy", "objective"))
    strategy = dict(strategy or {"name": "finetune"})
    kind = STRATEGIES[one_of(strategy.pop("name", "missing"), STRATEGIES, "strategy.name")]
    terms = {
        one_of(term, TERM_SETTINGS, "objective term"): knobs for term, knobs in (terms or {"classify": {}}).items()
    }
    settings = dataclasses.replace(
        checked(Settings, plain, ""),
        strategy=checked(kind, strategy, "strategy."),
        objective={name: checked(TERM_SETTINGS[name], knobs, f"objective.{name}.") for name, knobs in terms.items()},
    )
    for key, value in leaves(to_plain(settings)):
        if key in NAMES_OF_FILES and value == "":
            raise UserError(f"{key} is empty; it takes the name of a file or folder")
        if key in NAMES_OF_FILES and isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
            raise UserError(f"{key}={not_a_name(value)}")
        if value is not None and set(key.split(".")) & set(CODE_OF_ADAPTERS):
            raise UserError(f"{key} names code that PEFT would import, which a configuration must not do; remove it")
    return with_needed_rows(settings)


def to_plain(settings: Settings) -> dict[str, Any]:
    """Return the settings as nested dicts, lists and scalars; the inverse of `from_plain`."""
    plain = dataclasses.asdict(settings)
    names = {kind: name for name, kind in STRATEGIES.items()}
    return plain | {"strategy": {"name": names[type(settings.strategy)], **dataclasses.asdict(settings.strategy)}}


def to_yaml(settings: Settings) -> str:
    """Return the settings as YAML, which `compose` accepts like a recipe."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(to_plain(settings)))


def words_of(settings: Settings) -> list[str]:
    """Return key=value words that reproduce the run: everything in its identity that differs from the defaults."""
    chosen, changed = _differences(settings)
    composed = ("classify", chosen.get("objective"))  # other terms are not in the chosen group: they need a +
    added = tuple(f"objective.{name}." for name in settings.objective if name not in composed)
    words = [f"+{word}" if word.startswith(added) else word for word in from_mapping(changed)]
    return [*(f"{group}={name}" for group, name in chosen.items()), *words]


def to_recipe(settings: Settings) -> str:
    """Return the same as a recipe: a YAML file with the chosen groups and the keys that differ from the defaults."""
    from omegaconf import OmegaConf

    chosen, changed = _differences(settings)
    nested = OmegaConf.create({"defaults": ["config", *({f"override {k}": v} for k, v in chosen.items()), "_self_"]})
    for key, value in ({"name": settings.name} | changed).items():
        OmegaConf.update(nested, key, value)
    return OmegaConf.to_yaml(nested)


def _differences(settings: Settings) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the chosen name of each group, and what else of the identity differs from the defaults, by dotted key."""
    plain = to_plain(settings)
    chosen = {"strategy": str(plain["strategy"]["name"])}
    if terms := [name for name in settings.objective if name != "classify"]:
        chosen["objective"] = terms[0]
    defaults = _defaults_of(tuple(f"{group}={name}" for group, name in chosen.items()))
    return chosen, {key: value for key, value in _changes(plain, defaults) if key not in NOT_IDENTITY}


@cache  # needed for every run of a process, while conf/ stays the same
def _defaults_of(choices: tuple[str, ...]) -> dict[str, Any]:
    """Return the default settings with these choices of groups, as plain values that must not be modified."""
    return to_plain(compose(None, choices))


def _changes(now: Mapping[str, Any], before: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values that differ; a mapping in place of None is one value, except an objective term."""
    for key, value in now.items():
        if isinstance(value, Mapping) and (isinstance(before.get(key), Mapping) or group == "objective."):
            if group or key not in NOT_IDENTITY:
                yield from _changes(value, before.get(key, {}), f"{group}{key}.")
        elif key not in before or value != before[key]:
            yield f"{group}{key}", value


def identity(settings: Settings) -> dict[str, Any]:
    """Return the part of the settings that determines what is computed, as plain values: the identity of a run."""
    plain = to_plain(settings)
    unused = {group for group in _OPTIONAL if not getattr(settings, group).used}
    return {key: value for key, value in plain.items() if key not in {*NOT_IDENTITY, *unused}}


def run_id(settings: Settings, **more: Any) -> str:
    """Return eight hex digits that hash the identity of a run, the same on every rank and after a restart.

    Args:
        settings: of the run.
        more: further plain values to hash.
    """
    hashed = {**identity(settings), **more}
    return hashlib.sha256(json.dumps(hashed, sort_keys=True, default=str).encode()).hexdigest()[:8]


def run_path(settings: Settings, **more: Any) -> Path:
    """Return the folder of a run, which depends on its configuration alone; for `more` see `run_id`."""
    return expanded(settings.output) / f"{settings.name}-{run_id(settings, **more)}"


def default_name(settings: Settings, recipe: str | None = None) -> str:
    """Return the name of a run that is given none: that of its recipe, or one made of its data and strategy."""
    if recipe is not None:
        return Path(recipe).stem
    source = settings.data.source or "data"
    strategy = to_plain(settings)["strategy"]["name"]
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{Path(source).stem}-{strategy}")


@contextmanager
def user_errors(words: Sequence[str], known: Callable[[], Sequence[str]] | None = None) -> Iterator[None]:
    """Turn Hydra's and OmegaConf's errors into one sentence that names the key and its alternatives.

    `known` returns the valid keys; None: the keys of all strategies.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
    from yaml import YAMLError

    try:
        yield
    except UserError:
        raise
    except MissingMandatoryValue as error:
        key = error.full_key
        raise UserError(f"{key} has no value: set it on the command line ({key}=...) or in the recipe") from None
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:  # Hydra raises plain ones too
        raise UserError(_explain(error, words, known or _all_keys)) from None


def _explain(error: Exception, words: Sequence[str], known_keys: Callable[[], Sequence[str]]) -> str:
    """Return a sentence about an error of Hydra or OmegaConf, with a suggestion where a name is misspelt."""
    text = re.split(r"\s+(?:full_key:|Config search path:)", str(error).strip())[0]
    cause = error.__cause__
    unknown = re.search(r"Could not override '([^']+)'", text)
    group = re.search(r"Could not (?:find|override) '([^'/]+)/([^']+)'", text)
    if group and group[1] in GROUPS:
        known = shipped_names(group[1])
        custom = {"data": ("data.path", "data=files"), "encoder": ("encoder.name", "encoder=custom")}.get(group[1])
        own = f"; one of your own: {custom[1]} {shell_word(custom[0], group[2])}" if custom else ""
        return (
            f"{group[1]}={group[2]} is not known{did_you_mean(group[2], known)}; choose from: {', '.join(known)}{own}"
        )
    if unknown and unknown[1] in GROUPS:
        return f"{unknown[1]} cannot be chosen, because the recipe's defaults list does not start with `config`"
    if unknown:
        key, keys = unknown[1], known_keys()
        if having := [name for name, kind in STRATEGIES.items() if key in _keys_of(kind)]:
            valid = {each for each in keys if each.startswith("strategy.")} - {"strategy.name"}
            chosen = [name for name, kind in STRATEGIES.items() if set(_keys_of(kind)) == valid]
            which = f"strategy={chosen[0]}" if len(chosen) == 1 else "every strategy that was chosen"
            return f"{key} does not exist for {which}; it does for {', '.join(having)}"
        implied = _keys_of(Finetune) if {*_keys_of(Auto)} <= {*keys} else []  # strategy.KEY alone implies finetune
        return f"{key} is not a known key{close_key(key, [*implied, *keys])}; `nlp-transfer plan --cfg` lists all"
    detail = f" ({str(cause).splitlines()[0]})" if cause else ""
    return " ".join(text.split()) + detail + (f"; overrides were: {' '.join(words)}" if words else "")


def _keys_beside(folder: Path, name: str, words: Sequence[str]) -> list[str]:
    """Return the valid keys for the groups that a recipe and the overrides choose."""
    return [*GROUPS, *dotted(_composed(folder, name, [word for word in words if word.partition("=")[0] in GROUPS]))]


def _all_keys() -> list[str]:
    keys = [*GROUPS, *dotted(to_plain(from_plain({})))]
    return keys + [key for kind in STRATEGIES.values() for key in _keys_of(kind)]


def _keys_of(strategy: type) -> list[str]:
    return [f"strategy.{field.name}" for field in dataclasses.fields(strategy)]
