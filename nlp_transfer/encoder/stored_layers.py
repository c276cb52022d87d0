"""Compare the layers in a weight file with those that the configuration beside it asks for.

The library leaves out layers beyond the configured number, and initialises randomly those that the file lacks.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nlp_transfer.encoder.sizes import LAYERS, configuration_of
from nlp_transfer.errors import UserError
from nlp_transfer.wording import counted

_NUMBER = re.compile(r"(?:^|(?<=\.))\d+(?=\.)")  # in the name of a parameter: the index in a list of modules


def check_layers(model: Any, info: Mapping[str, Any], folder: Path, *, all_wanted: bool) -> None:
    """Refuse a configuration with fewer or more layers than the weights beside it.

    Weights outside the model's lists of layers, such as those of a decoder or of another task's head, do not matter.

    Args:
        model: a transformers model, loaded from `folder`.
        info: the loading info of `from_pretrained`.
        folder: of the configuration and the weights.
        all_wanted: whether the configuration was loaded as it is, not limited to the lowest layers.

    Raises:
        UserError: naming the file, the entry and both numbers.
    """
    base = f"{model.base_model_prefix}."
    own = {name.removeprefix(base) for name in model.state_dict() if name.startswith(base) or not _has_head(model)}
    missing = {name.removeprefix(base) for name in info["missing_keys"]} & own
    present = _by_list(own - missing)
    for before, absent in sorted(_by_list(missing).items()):
        stored = present.get(before, set())
        if stored and absent - stored:
            raise _mismatch(model, folder, before, len(absent | stored), len(stored))
    if not all_wanted:
        return
    known, alike = _by_list(own), {(before, after) for name in own for before, _, after in _numbered(name)}
    surplus: dict[str, set[int]] = defaultdict(set)
    for name in info["unexpected_keys"]:
        for before, index, after in _numbered(name.removeprefix(base)):
            # Some layers of a list may lack a parameter that others have: another layer has another index altogether.
            if (before, after) in alike and index not in known[before]:
                surplus[before].add(index)
    for before, more in sorted(surplus.items()):
        raise _mismatch(model, folder, before, len(known[before]), len(known[before] | more))


def _has_head(model: Any) -> bool:
    return hasattr(model, model.base_model_prefix)


def _numbered(name: str) -> Iterator[tuple[str, int, str]]:
    """Yield each index in the name of a parameter, with what precedes and what follows it."""
    for match in _NUMBER.finditer(name):
        yield name[: match.start()], int(match[0]), name[match.end() :]


def _by_list(names: Iterable[str]) -> dict[str, set[int]]:
    """Return the indices that occur in each list of modules, by the name of the list."""
    found: dict[str, set[int]] = defaultdict(set)
    for name in names:
        for before, index, _ in _numbered(name):
            found[before].add(index)
    return found


def _mismatch(model: Any, folder: Path, before: str, configured: int, stored: int) -> UserError:
    is_decoder = "decoder" in before and model.config.is_encoder_decoder
    entries = [key for key, value in configuration_of(folder).items() if LAYERS.search(key) and value == configured]
    entries.sort(key=lambda key: ("decoder" in key) != is_decoder)
    asked = f"{entries[0]}={configured}" if entries else f"it asks for {counted(configured, 'layer')}"
    if configured > stored:
        advice = "correct the number, or fetch the weights that belong to it"
    elif is_decoder:
        advice = "correct the number"
    else:
        advice = "correct the number, or set encoder.depth to use only the lowest layers"
    return UserError(
        f"{folder / 'config.json'}: {asked}, but the weights beside it hold {counted(stored, 'layer')} ({before}*); "
        f"{advice}"
    )
