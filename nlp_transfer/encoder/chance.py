"""Random weights instead of pretrained ones, as an architecture itself starts from them; it knows no strategy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def randomise(model: Any, base: str, wanted: Callable[[str], bool]) -> None:
    """Give modules of an encoder the architecture's own random initialisation; the global random state decides.

    Args:
        model: holds the encoder.
        base: the attribute that does.
        wanted: of the qualified name of a parameter; a module is changed where all its own parameters are wanted.
    """
    encoder = getattr(model, base)  # under our own head the model knows other rules
    for prefix, module in model.named_modules():
        own = [f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False)]
        if own and all(map(wanted, own)):
            for parameter in module.parameters(recurse=False):
                parameter._is_hf_initialized = False  # or transformers leaves it alone
            module._is_hf_initialized = False
            encoder._init_weights(module)
