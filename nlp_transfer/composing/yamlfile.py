"""A YAML file that may come from anywhere, as plain values: data, whatever it says, and small whatever it repeats.

It makes no objects, reads no environment and holds no secret. This file knows no setting by name.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from nlp_transfer.composing.plain import leaves
from nlp_transfer.errors import UserError
from nlp_transfer.secrets import looks_secret

MOST_BYTES = 1 << 20
MOST_VALUES = 30_000  # 10,000 labels with a weight each are 20,000
MOST_DEPTH = 50
MOST_REFERENCES = 12  # what they stand for may hold references again, and twice as many each time
# A reference to another key, such as ${seed}. OmegaConf reads more: the environment, functions.
_REFERENCE = re.compile(r"(?<!\\)\$\{[\w.\[\]-]+\}")
_SHOWN = 100  # characters


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds, references unresolved.

    Raises:
        UserError: for a file that is no YAML, too large, or holds what `check_values` refuses.
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
    except Exception as error:  # the YAML parser's own errors have no common public base here
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    check_values(content, f"{path}, ")
    return content


def check_values(content: Any, place: str = "") -> None:
    """Refuse values that are no data, in nested dicts and lists.

    Raises:
        UserError: naming the key, for ``${...}`` that is no reference to another key, for more references than anybody
            needs, and for an access token, which is not quoted.
    """
    texts = [(key, str(value)) for key, value in leaves(content)]
    if looks_secret("\n".join(f"{key}\n{text}" for key, text in texts)):  # at once: that is cheap
        for key, text in texts:
            refuse_secret(key, text, place)
    for key, text in texts:
        refuse_functions(text, f"{place}{key}: ")
    references = sum(text.count("${") for _, text in texts)
    if references > MOST_REFERENCES:
        raise UserError(
            f"{place or 'the configuration '}has {references} references ${{...}}; at most {MOST_REFERENCES}"
        )


def refuse_functions(text: str, place: str = "") -> None:
    """Refuse ``${...}`` that is anything but a reference to another key.

    Raises:
        UserError: naming the place.
    """
    if "${" in _REFERENCE.sub("", text):
        raise UserError(
            f"{place}{text[:_SHOWN]}: ${{...}} takes the value of another key, as in ${{seed}}; it reads nothing from "
            "the environment and computes nothing"
        )


def refuse_secret(key: str, value: str, place: str = "") -> None:
    """Refuse a key or value that holds an access token, naming the key alone.

    Raises:
        UserError: in which the value is not quoted.
    """
    if looks_secret(key) or looks_secret(value):
        raise UserError(
            f"{place}{key}: the value looks like an access token or a password; tokens belong in HF_TOKEN or "
            "`hf auth login`, never in a configuration, which is shown and saved"
        )


def _check_size(path: Path) -> None:
    """Refuse a file that is large, or becomes so where each alias is what it repeats; the parser would build it."""
    import yaml

    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path} is larger than any configuration ({path.stat().st_size:,} bytes)")
    text = path.read_text(encoding="utf-8")
    values: dict[str, int] = {}  # by anchor
    opened: list[tuple[str | None, int]] = []
    count = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in opened):
                raise UserError(f"{path}: *{event.anchor} repeats what it is a part of")
            count += values.get(event.anchor, 0)
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, count))
        elif isinstance(event, (yaml.ScalarEvent, yaml.CollectionEndEvent)):
            anchor, before = opened.pop() if isinstance(event, yaml.CollectionEndEvent) else (event.anchor, count)
            count += 1
            if anchor is not None:
                values[anchor] = count - before
        if count > MOST_VALUES or len(opened) > MOST_DEPTH:
            raise UserError(
                f"{path} holds more values than any configuration ({MOST_VALUES:,}, {MOST_DEPTH} inside each other), "
                "with what its anchors repeat"
            )
