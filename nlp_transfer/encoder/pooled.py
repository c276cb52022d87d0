"""The pooled head: an encoder, pooling over its tokens and layers, then a linear layer or a small MLP.

This file and `pooled_config` are copied into the folder of every saved model as its remote code, so they may import
only torch and transformers.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, initialization
from transformers.modeling_outputs import SequenceClassifierOutput

from .pooled_config import PooledConfig, encoder_config  # relative, so that transformers copies that file, too


class LayerMix(nn.Module):
    """Weighted mean over layers; the weights are the softmax of parameters that are initially equal."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(layers))

    def forward(self, vectors: Tensor) -> Tensor:
        """(layers, examples, width) -> (examples, width)."""
        return torch.einsum("l,lew->ew", self.weight.softmax(dim=0), vectors)


class PooledForSequenceClassification(PreTrainedModel):
    """An encoder, pooling, and a head whose output layer is named `classifier`.

    A siamese model splits a pair that the tokenizer joined, encodes each text separately, and compares the two vectors.
    """

    config_class = PooledConfig
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _auto_class = "AutoModelForSequenceClassification"

    def __init__(self, config: PooledConfig, encoder: PreTrainedModel | None = None) -> None:
        """Build the model around `encoder`, or around a randomly initialised encoder of `config.encoder`."""
        super().__init__(config)
        self.num_labels = config.num_labels  # read by the library
        self.encoder = without_decoder(new_encoder(config.encoder)) if encoder is None else encoder
        width, outputs = self._layer_width(), config.num_labels or 0
        several = len(config.layers) > 1
        self.mix = LayerMix(len(config.layers)) if several and config.combine == "mix" else None
        width *= len(config.layers) if several and config.combine == "concat" else 1
        self.hidden_layer = nn.Linear(width, config.hidden) if config.hidden else None
        self.dropout = nn.Dropout(config.head_dropout)
        self.classifier = nn.Linear(config.hidden or width, outputs)
        self.post_init()

    def keep_layer(self, position: int) -> None:
        """Keep only one of several concatenated layers; the output layer is newly initialised for its width."""
        self.config.layers = [self.config.layers[position]]
        weight = self.classifier.weight
        self.classifier = nn.Linear(self._layer_width(), len(weight), device=weight.device)

    def _layer_width(self) -> int:
        return encoder_config(self.encoder.config).hidden_size * (3 if self.config.siamese else 1)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LayerMix):
            initialization.zeros_(module.weight)  # unlike torch's, it skips loaded weights

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Return logits of shape (examples, num_labels), and the library's loss if `labels` are given."""
        name, given = ("input_ids", input_ids) if inputs_embeds is None else ("inputs_embeds", inputs_embeds)
        if given is None:
            raise ValueError("give input_ids or inputs_embeds")
        if attention_mask is None:
            attention_mask = torch.ones(given.shape[:2], dtype=torch.long, device=given.device)
        if self.config.siamese:
            if input_ids is None:
                raise ValueError(
                    "a siamese model tells its two texts apart by input_ids; for inputs_embeds use pairs=joint"
                )
            given, attention_mask = texts_apart(input_ids, attention_mask, **self.config.siamese)
        elif token_type_ids is not None:
            kwargs["token_type_ids"] = token_type_ids
        only_last = self.config.layers == [-1]
        if not only_last:
            kwargs["output_hidden_states"] = True
        kwargs["return_dict"] = True
        out = self.encoder(**{name: given}, attention_mask=attention_mask, **kwargs)
        states = [out.last_hidden_state] if only_last else [out.hidden_states[layer] for layer in self.config.layers]
        vectors = [pool(state, attention_mask, self.config.pooling) for state in states]
        if self.config.siamese:
            vectors = [compare(*vector.unflatten(0, (2, -1)).unbind()) for vector in vectors]
        vector = torch.cat(vectors, dim=-1) if self.mix is None else self.mix(torch.stack(vectors))
        if self.hidden_layer is not None:
            vector = nn.functional.gelu(self.hidden_layer(self.dropout(vector)))
        logits = self.classifier(self.dropout(vector))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def texts_apart(ids: Tensor, mask: Tensor, *, start: int, separator: int, between: int) -> tuple[Tensor, Tensor]:
    """Split joined pairs into texts: (rows, tokens) -> (2 · rows, fewer tokens), all first texts before second ones.

    Each text gets the special tokens that it would have alone. A row with one text gives that text twice. Padding is
    filled with separators, so that no trace of the other text is left for encoders that padding affects.

    Args:
        ids: Token ids.
        mask: 0 for padding, else 1.
        start: Number of special tokens before the first text.
        separator: The token after each text.
        between: Number of separators between the two texts.

    Returns:
        Ids and mask, padded on the right.
    """
    kept, width = mask.to(torch.bool), ids.shape[1]
    positions = torch.arange(width, device=ids.device)
    ends = kept & (ids == separator)
    end = torch.where(ends.any(dim=1), (ends * positions.add(1).flip(0)).argmax(dim=1), width).unsqueeze(1)
    first = kept & (positions <= end)
    rest = kept & (positions >= end + between)
    is_single = ~rest.any(dim=1, keepdim=True)
    second = (is_single & first) | rest | (~is_single & kept & (kept.cumsum(dim=1) <= start))
    both = torch.cat([first, second])
    lengths = both.sum(dim=1, keepdim=True)
    # Tokens of the other text go to an extra last column, which is dropped.
    target = (both.cumsum(dim=1) - 1).masked_fill(~both, width)
    apart = ids.new_full((target.shape[0], width + 1), separator).scatter(1, target, torch.cat([ids, ids]))
    longest: Any = lengths.max().clamp(min=2).item()
    torch._check(longest >= 2)  # for torch.export: bounds of a width that depends on the ids
    torch._check(longest <= width + 1)
    is_token = torch.arange(longest, device=ids.device) < lengths
    return apart.narrow(1, 0, longest).masked_fill(~is_token, separator), is_token.to(mask.dtype)


def compare(u: Tensor, v: Tensor) -> Tensor:
    """Return the features of a pair of vectors: (rows, width) twice -> (rows, 3 · width).

    |u - v| and u * v (Tai et al. 2015, https://arxiv.org/abs/1503.00075) are symmetric; u - v depends on the order of
    the texts. It is halved so that with few examples, a penalised classifier prefers the symmetric features.
    """
    return torch.cat([(u - v) / 2, (u - v).abs(), u * v], dim=-1)


def pool(states: Tensor, mask: Tensor, how: str) -> Tensor:
    """One vector per row from the tokens that `mask` keeps: (rows, tokens, width), (rows, tokens) -> (rows, width)."""
    kept = mask.to(torch.bool)
    if how == "mean":
        weights = kept.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    if how == "max":
        return states.masked_fill(~kept.unsqueeze(-1), torch.finfo(states.dtype).min).amax(dim=1)
    positions = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    if how == "cls":
        chosen = (kept * positions.flip(0)).argmax(dim=1)
    elif how == "last":
        chosen = (kept * positions).argmax(dim=1)
    else:
        raise ValueError(f"pooling={how!r} is not known; choose from: mean, max, cls, last")
    return states[torch.arange(states.shape[0], device=states.device), chosen]


def encoder_options(config: PreTrainedConfig) -> dict[str, bool]:
    """Return the arguments that leave out the encoder's own pooler, which would be unused."""
    from transformers import MODEL_MAPPING

    kinds: Any = MODEL_MAPPING[type(config)]
    kind = kinds[0] if isinstance(kinds, tuple) else kinds
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind).parameters else {}


def new_encoder(config: Any) -> PreTrainedModel:
    """Return a randomly initialised encoder of `config`."""
    from transformers import AutoModel

    read_once(config)
    return AutoModel.from_config(config, **encoder_options(config))


def read_once(config: PreTrainedConfig) -> None:
    """Disable the key-value cache, which is only useful for generation."""
    for part in (config, encoder_config(config)):
        if getattr(part, "use_cache", False):
            part.use_cache = False


def without_decoder(model: PreTrainedModel) -> PreTrainedModel:
    """Return the encoder of an encoder-decoder (T5, BART), and any other model unchanged."""
    return model.get_encoder() if model.config.is_encoder_decoder else model


def register_model() -> None:
    """Register `PooledForSequenceClassification` with `AutoModelForSequenceClassification`."""
    from transformers import AutoModelForSequenceClassification

    AutoModelForSequenceClassification.register(PooledConfig, PooledForSequenceClassification, exist_ok=True)
