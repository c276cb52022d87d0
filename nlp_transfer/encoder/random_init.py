"""Reinitialise parts of an encoder with the architecture's own random initialisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def reinitialise(model: Any, base: str, wanted: Callable[[str], bool]) -> None:
    """Reinitialise modules of an encoder, drawing from the global random state.

    Args:
        model: contains the encoder.
        base: the attribute of the model that holds the encoder.
        wanted: whether to reinitialise the parameter of a qualified name; a module is reinitialised only if all its
            direct parameters are.
    """
    encoder = getattr(model, base)  # the model's own `_init_weights` may be that of a pooled head
    for prefix, module in model.named_modules():
        names = [f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False)]
        if names and all(map(wanted, names)):
            for parameter in module.parameters(recurse=False):
                parameter._is_hf_initialized = False  # otherwise transformers skips it
            module._is_hf_initialized = False
            encoder._init_weights(module)
