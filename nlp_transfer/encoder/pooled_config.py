"""The configuration of the pooled head, see `pooled`.

A separate file, because it is registered with `AutoConfig` before the library's models can be imported. It is copied
beside saved models and may import only transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, PreTrainedConfig


class PooledConfig(PreTrainedConfig):
    """Configuration of `PooledForSequenceClassification`.

    Args:
        encoder: Configuration of the encoder, or its dictionary.
        pooling: How token states become the vector of a text: "mean", "max", "cls" (first) or "last", without padding.
        layers: The hidden states to pool: 0 is the embeddings, -1 the last layer.
        combine: Several layers are averaged with learned weights ("mix", Peters et al. 2018, https://arxiv.org/abs/1802.05365)
            or concatenated ("concat").
        hidden: Width of a hidden layer before the output layer; 0: none.
        head_dropout: Dropout probability before the output layer.
        siamese: How the tokenizer joins two texts, if they are to be encoded separately: "start", the number of special
            tokens before a text, "separator", the token after it, and "between", the number of separators between two
            texts. None: pairs are encoded jointly.
    """

    model_type = "nlp_transfer_pooled"
    sub_configs = {"encoder": AutoConfig}  # noqa: RUF012 - transformers reads it as a plain class attribute
    has_no_defaults_at_init = True
    _auto_class = "AutoConfig"

    def __init__(
        self,
        encoder: PreTrainedConfig | dict[str, Any] | None = None,
        pooling: str = "mean",
        layers: Sequence[int] = (-1,),
        combine: str = "mix",
        hidden: int = 0,
        head_dropout: float = 0.1,
        siamese: dict[str, int] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(encoder, dict):
            encoder = AutoConfig.for_model(**encoder)
        self.encoder = encoder
        self.pooling = pooling
        self.layers = list(layers)
        self.combine = combine
        self.hidden = hidden
        self.head_dropout = head_dropout
        self.siamese = siamese
        super().__init__(**kwargs)


def encoder_config(config: PreTrainedConfig) -> Any:
    """Return the part of a configuration that describes the text encoder.

    It is nested in configurations of pooled heads, multimodal models, and some encoder-decoders; else it is the whole.
    """
    parts = (getattr(config, name, None) for name in ("encoder", "text_config"))
    part = next((part for part in parts if isinstance(part, PreTrainedConfig)), None)
    return config if part is None else encoder_config(part)


def register_config() -> None:
    """Register `PooledConfig` with `AutoConfig`."""
    AutoConfig.register(PooledConfig.model_type, PooledConfig, exist_ok=True)
