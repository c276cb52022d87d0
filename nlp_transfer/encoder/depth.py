"""Configuration entries that determine the number of layers; imports neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_COUNT = "num_hidden_layers"


def entries_of(config: Mapping[str, Any], depth: int | None) -> dict[str, Any]:
    """Return the entries with which `from_pretrained` loads only the lowest layers of an encoder.

    Args:
        config: of the whole encoder.
        depth: how many layers; None: all of them, so no entries.
    """
    if depth is None:
        return {}
    count = config.get(_COUNT)
    per_layer = {name: value[:depth] for name, value in config.items() if _is_per_layer(name, value, count)}
    return {_COUNT: depth} | per_layer


def _is_per_layer(name: str, value: Any, count: int | None) -> bool:
    """Return whether an entry has one item per layer, like `layer_types`, `no_rope_layers` and `attention_window`."""
    is_named_so = "layer" in name or name == "attention_window"
    return is_named_so and isinstance(value, list) and count in (None, len(value))
