"""The configuration of our own head, see `pooled`.

A file of its own, because `AutoConfig` must know it at a moment when the library's models cannot be imported yet. It is
copied beside saved models and must not import anything but transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, PreTrainedConfig


class PooledConfig(PreTrainedConfig):
    """Configuration of `PooledForSequenceClassification`.

    Args:
        encoder: Configuration of the encoder, or its dictionary.
        pooling: Which tokens become the text's vector: "mean", "max", "cls" (first) or "last", padding left out.
        layers: Which hidden states are pooled: 0 is the embeddings, -1 the last layer.
        combine: Several layers are averaged with learned weights ("mix", Peters et al. 2018, https://arxiv.org/abs/1802.05365)
            or laid side by side ("concat").
        hidden: Width of a hidden layer before the output layer; 0: none.
        head_dropout: Dropout probability before the output layer.
        siamese: How a tokenizer joins two texts, where each is to be read alone: "start", how many special tokens come
            before a text, "separator", the token after it, and "between", how many of that come between two texts.
            None: whatever the tokenizer gives is read together.
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
    """Return the part of a configuration that describes what reads a text.

    That is a part under our own head, in models that read images as well, and where encoder and decoder have one each.
    """
    parts = (getattr(config, name, None) for name in ("encoder", "text_config"))
    part = next((part for part in parts if isinstance(part, PreTrainedConfig)), None)
    return config if part is None else encoder_config(part)


def register_config() -> None:
    """Make `AutoConfig` know `PooledConfig`."""
    AutoConfig.register(PooledConfig.model_type, PooledConfig, exist_ok=True)
