"""Read untrusted YAML files as plain data.

No file can create objects, read the environment, expand to a huge structure or contain a secret. This module knows no
setting by name.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from nlp_transfer.composing.plain import leaves
from nlp_transfer.errors import UserError
from nlp_transfer.secrets import looks_secret

MAX_BYTES = 1 << 20
MAX_VALUES = 30_000  # 10,000 labels with a weight each are 20,000
MAX_DEPTH = 50
MAX_REFERENCES = 12  # a reference may resolve to two others, and so on: the size can double with each
# A reference to another key, such as ${seed}. OmegaConf would also resolve environment variables and functions.
_REFERENCE = re.compile(r"(?<!\\)\$\{[\w.\[\]-]+\}")
_SHOWN = 100  # characters of a text that an error quotes


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file, with references unresolved.

    Raises:
        UserError: for a file that is no YAML, is too large, or contains what `check_values` refuses.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        _check_size(path)
        content = OmegaConf.to_container(OmegaConf.load(path))
    except UserError:
        raise
    except (OSError, ValueError, OmegaConfBaseException) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    except Exception as error:  # the errors of the YAML parser have no common public base class
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    check_values(content, f"{path}, ")
    return content


def check_values(content: Any, place: str = "") -> None:
    """Refuse values in nested dicts and lists that are not plain data.

    Raises:
        UserError: naming the key, for ``${...}`` that is no reference to another key, for too many references, and for
            an access token, which is not quoted.
    """
    texts = [(key, str(value)) for key, value in leaves(content)]
    if looks_secret("\n".join(f"{key}\n{text}" for key, text in texts)):  # one search of all is cheaper than many
        for key, text in texts:
            refuse_secret(key, text, place)
    for key, text in texts:
        refuse_functions(text, f"{place}{key}: ")
    references = sum(text.count("${") for _, text in texts)
    if references > MAX_REFERENCES:
        raise UserError(
            f"{place or 'the configuration '}has {references} references ${{...}}; at most {MAX_REFERENCES}"
        )


def refuse_functions(text: str, place: str = "") -> None:
    """Refuse ``${...}`` that is anything but a reference to another key.

    Raises:
        UserError: naming the place.
    """
    if "${" in _REFERENCE.sub("", text):
        raise UserError(
            f"{place}{text[:_SHOWN]}: ${{...}} must refer to another key, as in ${{seed}}; it cannot read the "
            "environment or call functions"
        )


def refuse_secret(key: str, value: str, place: str = "") -> None:
    """Refuse a key or value that contains an access token.

    Raises:
        UserError: naming the key but not the value.
    """
    if looks_secret(key) or looks_secret(value):
        raise UserError(
            f"{place}{key}: the value looks like an access token or a password; tokens belong in HF_TOKEN or "
            "`hf auth login`, never in a configuration, which is shown and saved"
        )


def _check_size(path: Path) -> None:
    """Refuse a file that is too large, or would be once its aliases are expanded, before it is loaded."""
    import yaml

    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path} is larger than any configuration ({path.stat().st_size:,} bytes)")
    text = path.read_text(encoding="utf-8")
    sizes: dict[str, int] = {}  # number of values by anchor
    open_collections: list[tuple[str | None, int]] = []  # anchor, and number of values before it
    count = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_collections):
                raise UserError(f"{path}: *{event.anchor} refers to a value that contains it")
            count += sizes.get(event.anchor, 0)
        elif isinstance(event, yaml.CollectionStartEvent):
            open_collections.append((event.anchor, count))
        elif isinstance(event, (yaml.ScalarEvent, yaml.CollectionEndEvent)):
            is_end = isinstance(event, yaml.CollectionEndEvent)
            anchor, before = open_collections.pop() if is_end else (event.anchor, count)
            count += 1
            if anchor is not None:
                sizes[anchor] = count - before
        if count > MAX_VALUES or len(open_collections) > MAX_DEPTH:
            raise UserError(
                f"{path} holds more values than any configuration ({MAX_VALUES:,}, nested {MAX_DEPTH} deep), with its "
                "aliases expanded"
            )
