"""Turn an encoder without layers into a bag of embeddings that ignores the positions of tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nlp_transfer.encoder.anatomy import word_embeddings
from nlp_transfer.encoder.pooled_config import encoder_config

_NAMES = ("position", "wpe")  # parts of the names of position embeddings in all architectures


def forget_positions(model: Any) -> None:
    """Replace all position embeddings of a model without layers by their mean, and freeze them.

    Without layers, position embeddings carry no information except the length of a text, and a model that ignores them
    is a table over its vocabulary. The mean preserves the scale of the input of the normalisation that follows.
    Relative and rotary positions are parts of layers, so none are left.
    """
    if getattr(encoder_config(model.config), "num_hidden_layers", None) != 0:
        return
    words = word_embeddings(model)
    for name, module in model.named_modules():
        attribute = name.rpartition(".")[2]
        if isinstance(module, nn.Embedding) and module is not words and any(part in attribute for part in _NAMES):
            with torch.no_grad():
                module.weight.copy_(module.weight.mean(dim=0, keepdim=True).expand_as(module.weight))
            module.weight.requires_grad_(False)
