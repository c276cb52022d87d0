"""Which entries of a configuration say how many layers an encoder has; it imports neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_COUNT = "num_hidden_layers"


def entries_of(config: Mapping[str, Any], depth: int | None) -> dict[str, Any]:
    """Return the entries with which `from_pretrained` loads the lowest layers of an encoder alone.

    Args:
        config: of the whole encoder.
        depth: how many layers; None: all, by no entries.
    """
    if depth is None:
        return {}
    listed = {name: told[:depth] for name, told in config.items() if _is_by_layer(name, told, config.get(_COUNT))}
    return {_COUNT: depth} | listed


def _is_by_layer(name: str, told: Any, count: int | None) -> bool:
    """Return whether an entry lists something layer by layer: `layer_types`, `no_rope_layers`, `attention_window`."""
    named = "layer" in name or name == "attention_window"
    return named and isinstance(told, list) and count in (None, len(told))
