"""An encoder without layers made a bag of vectors: what a token says does not depend on where it stands."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nlp_transfer.encoder.anatomy import word_embeddings
from nlp_transfer.encoder.pooled_config import encoder_config

_CALLED = ("position", "wpe")  # of which something stands in the name of every table of them


def forget_places(model: Any) -> None:
    """Make all position embeddings of a model without layers their mean, which no longer learns.

    With layers they tell which tokens are neighbours; without, they tell nothing but how long a text is, and a model
    that forgets them is a table over its vocabulary. The mean keeps the size of what is normalised after them. Relative
    and rotary positions belong to layers; nothing of them is left.
    """
    if getattr(encoder_config(model.config), "num_hidden_layers", None) != 0:
        return
    words = word_embeddings(model)
    for name, module in model.named_modules():
        own = name.rpartition(".")[2]
        if isinstance(module, nn.Embedding) and module is not words and any(part in own for part in _CALLED):
            with torch.no_grad():
                module.weight.copy_(module.weight.mean(dim=0, keepdim=True).expand_as(module.weight))
            module.weight.requires_grad_(False)
