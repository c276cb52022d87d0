"""Attention over packed tokens on a GPU: torch's FlashAttention for texts of unequal length, in bfloat16 or float16.

Which tokens of its text a token sees is said as transformers says it to FlashAttention: not by a mask, but by what the
layer hands over (`is_causal`, `sliding_window`). Models that the library does not run that way must not come here.
In float32, in which a model is only tried, texts are attended to one by one.
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
    """Make transformers know this attention under `NAME`."""
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
    """Return what each token gathers from the tokens of its text, (1, tokens, heads, head width).

    Args:
        module: of the library; says whether a token sees later ones, if `is_causal` does not.
        query: (1, heads, tokens, head width).
        key: (1, heads or fewer, tokens, head width).
        value: the same.
        attention_mask: None.
        packing: where the tokens lie.
        dropout: share of the attention weights that are dropped.
        scaling: of the scores; None: one over the root of the head width.
        sliding_window: a token sees those less than so many places away; None: all.
        is_causal: whether a token sees no later one.
        position_bias: not known here.
        softcap: not known here.
        s_aux: not known here.

    Raises:
        NotImplementedError: for scores that are changed in a way not known here; the model then stays padded.
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
    """Return what the kernel does, (tokens, heads, head width), in any precision."""
    texts = []
    for first, last in pairwise(bounds.tolist()):
        q, k, v = (states[first:last].transpose(0, 1).unsqueeze(0) for states in (query, key, value))
        places = torch.arange(last - first, device=query.device)
        distance = places[:, None] - places
        seen = torch.ones_like(distance, dtype=torch.bool)
        if causal:
            seen &= distance >= 0
        if window is not None:
            seen &= distance.abs() <= window
        found = nn.functional.scaled_dot_product_attention(q, k, v, seen, dropout_p=dropout, scale=scale)
        texts.append(found.squeeze(0).transpose(0, 1))
    return torch.cat(texts)


class _Flash(torch.autograd.Function):
    """The kernel: (tokens, heads, head width) three times -> the same.

    torch's `varlen_attn`, which is public, knows no dropout, and its nested tensors take longer to get here than the
    kernel runs.
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
        seen = {"scale": scale, "window_size_left": window, "window_size_right": window}
        of_what_was_dropped = False  # no mask is returned
        out, norms, *random, _ = torch.ops.aten._flash_attention_forward(
            query, key, value, bounds, bounds, longest, longest, dropout, causal, of_what_was_dropped, **seen
        )
        ctx.save_for_backward(query, key, value, out, norms, bounds, *random)
        ctx.longest, ctx.dropout, ctx.causal, ctx.seen = longest, dropout, causal, seen
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        query, key, value, out, norms, bounds, *random = ctx.saved_tensors
        ends = bounds, bounds, ctx.longest, ctx.longest
        with _in_one_order():
            gradients = torch.ops.aten._flash_attention_backward(
                gradient, query, key, value, out, norms, *ends, ctx.dropout, ctx.causal, *random, **ctx.seen
            )
        return (*gradients, None, None, None, None, None, None)


@contextmanager
def _in_one_order() -> Iterator[None]:
    """Let kernels sum in the same order every time: queries of long texts else get their gradients as they come.

    The switch is the process's; nothing else of a run is on its way to the GPU then.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    flags: Any = deterministic
    filled = flags.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    flags.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        flags.fill_uninitialized_memory = filled


def _no_mask(**_: Any) -> None:
    return None
