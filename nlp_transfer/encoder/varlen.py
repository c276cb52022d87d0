"""Attention over packed tokens on a GPU: torch's variable-length FlashAttention, in bfloat16 or float16.

As in transformers' FlashAttention interface, there is no mask: arguments of the layer (`is_causal`, `sliding_window`)
say which tokens attend to which. Models that need a mask are refused. In float32, which is only used to test whether a
model supports this attention, each text is computed separately.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils import deterministic

from nlp_transfer.encoder.attention import same_heads
from nlp_transfer.encoder.layout import Layout

NAME = "nlp_transfer_varlen"


def register_varlen() -> None:
    """Register this attention with transformers as `NAME`."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, varlen_attention)
    AttentionMaskInterface.register(NAME, _no_mask)


def varlen_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Layout,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Return the attention output of each token within its text, (1, tokens, heads, head width).

    Args:
        module: the attention module; its `is_causal` is used if the argument is None.
        query: (1, heads, tokens, head width).
        key: (1, heads or fewer, tokens, head width).
        value: the same.
        attention_mask: must be None.
        packing: the layout of the packed tokens.
        dropout: probability of dropping attention weights.
        scaling: of the scores; None: 1 / sqrt(head width).
        sliding_window: tokens attend to tokens closer than this; None: to all.
        is_causal: whether tokens do not attend to later ones.
        position_bias: not supported, must be None.
        softcap: not supported, must be None.
        s_aux: not supported, must be None.

    Raises:
        NotImplementedError: for unsupported arguments; the model then runs with padding.
    """
    if any(each is not None for each in (attention_mask, position_bias, softcap, s_aux)):
        raise NotImplementedError("attention with a mask, or whose scores are capped, biased or joined by sinks")
    if not packing.places.shape[0] == query.shape[2] == key.shape[2]:
        raise NotImplementedError("attention over other tokens")
    query, key, value = (states.transpose(0, 1) for states in same_heads(query, key, value))
    longest = packing.longest
    window = None if sliding_window is None or sliding_window > longest else sliding_window - 1
    causal = getattr(module, "is_causal", False) if is_causal is None else is_causal
    if query.dtype == torch.float32:
        return _one_by_one(query, key, value, packing.bounds, dropout, causal, scaling, window).unsqueeze(0), None
    gathered = _Flash.apply(query, key, value, packing.bounds, longest, dropout, causal, scaling, window)
    return gathered.unsqueeze(0), None


def _one_by_one(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: Tensor,
    dropout: float,
    causal: bool,
    scale: float | None,
    window: int | None,
) -> Tensor:
    """Return the same as the kernel, (tokens, heads, head width), in any precision."""
    texts = []
    for first, last in pairwise(bounds.tolist()):
        q, k, v = (states[first:last].transpose(0, 1).unsqueeze(0) for states in (query, key, value))
        positions = torch.arange(last - first, device=query.device)
        distance = positions[:, None] - positions
        mask = torch.ones_like(distance, dtype=torch.bool)
        if causal:
            mask &= distance >= 0
        if window is not None:
            mask &= distance.abs() <= window
        out = nn.functional.scaled_dot_product_attention(q, k, v, mask, dropout_p=dropout, scale=scale)
        texts.append(out.squeeze(0).transpose(0, 1))
    return torch.cat(texts)


class _Flash(torch.autograd.Function):
    """The kernel: (tokens, heads, head width) three times -> the same.

    torch's public `varlen_attn` has no dropout, and preparing nested tensors takes longer than the kernel itself.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bounds: Tensor,
        longest: int,
        dropout: float,
        causal: bool,
        scale: float | None,
        window: int | None,
    ) -> Tensor:
        options = {"scale": scale, "window_size_left": window, "window_size_right": window}
        return_debug_mask = False
        out, norms, *random, _ = torch.ops.aten._flash_attention_forward(
            query, key, value, bounds, bounds, longest, longest, dropout, causal, return_debug_mask, **options
        )
        ctx.save_for_backward(query, key, value, out, norms, bounds, *random)
        ctx.longest, ctx.dropout, ctx.causal, ctx.options = longest, dropout, causal, options
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        query, key, value, out, norms, bounds, *random = ctx.saved_tensors
        ends = bounds, bounds, ctx.longest, ctx.longest
        with _deterministic():
            gradients = torch.ops.aten._flash_attention_backward(
                gradient, query, key, value, out, norms, *ends, ctx.dropout, ctx.causal, *random, **ctx.options
            )
        return (*gradients, None, None, None, None, None, None)


@contextmanager
def _deterministic() -> Iterator[None]:
    """Use deterministic kernels in the block: otherwise gradients of long texts are summed in varying order.

    The switch is process-wide; a run launches no other kernels meanwhile.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    flags: Any = deterministic
    fill_memory = flags.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    flags.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        flags.fill_uninitialized_memory = fill_memory


def _no_mask(**_: Any) -> None:
    return None
