"""Which entries of a configuration say how many layers an encoder has; it imports neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BY_LAYER = ("layer_types", "attention_window")  # what configurations may list layer by layer


def entries_of(config: Mapping[str, Any], depth: int | None) -> dict[str, Any]:
    """Return the entries with which `from_pretrained` loads the lowest layers of an encoder alone.

    Args:
        config: of the whole encoder.
        depth: how many layers; None: all, by no entries.
    """
    if depth is None:
        return {}
    listed = {name: told[:depth] for name in BY_LAYER if isinstance(told := config.get(name), list)}
    return {"num_hidden_layers": depth} | listed
