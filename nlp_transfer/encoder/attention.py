"""Attention over packed tokens, within each text only, plugged in through transformers' attention interface.

Matrix product, softmax, matrix product over groups of rows of similar length, as one node of the autograd graph. On a
CPU this is several times faster for short texts than torch's kernels, whose backward pass is slow in bf16 and which do
not support dropout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nlp_transfer.encoder.dropout import scaled_mask
from nlp_transfer.encoder.layout import VECTOR, WIDEST, ByHead, Layout, PaddedGroup

NAME = "nlp_transfer_packed"
_Groups = Sequence[tuple[PaddedGroup, ByHead]]
_SAFE = 50.0  # exponentials of larger scores, their sums and inverses approach the limits of bfloat16's range


def register_attention() -> None:
    """Register packed attention with transformers as `NAME`."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, packed_mask)


def packed_mask(*, mask_function: Any, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    """Return the library's mask of the padded batch, or None if every token attends to its whole text."""
    from transformers.masking_utils import bidirectional_mask_function, sdpa_mask

    if mask_function is bidirectional_mask_function:
        return None
    if attention_mask is not None:  # the library passes the sizes of the embeddings, which may be packed
        rows, columns = attention_mask.shape
        options |= {"batch_size": rows, "q_length": columns, "kv_length": columns}
    options["allow_is_causal_skip"] = False
    return sdpa_mask(mask_function=mask_function, attention_mask=attention_mask, **options)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Layout,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Return the attention output of every packed token, (1, tokens, heads, head width).

    Args:
        module: the library's attention module.
        query: (1, heads, tokens, head width).
        key: (1, heads or fewer, tokens, head width).
        value: the same.
        attention_mask: bool (rows or 1, 1, columns, columns) of the padded batch; True where a query sees a key.
        packing: where the tokens lie.
        dropout: share of the attention weights that are dropped.
        scaling: factor of the scores; None: one over the square root of the head width.
        position_bias: not supported: T5 counts positions over the whole packed row.
        softcap: not supported.
        s_aux: not supported.

    Raises:
        NotImplementedError: for unsupported scores; the model then stays padded.
    """
    if softcap is not None or s_aux is not None or position_bias is not None:
        raise NotImplementedError("attention whose scores are capped, biased or joined by sinks")
    unmasked = attention_mask is None and getattr(module, "is_causal", False)
    if unmasked or not packing.places.shape[0] == query.shape[2] == key.shape[2]:
        raise NotImplementedError("attention without a mask, or over other tokens")
    query, key, value = same_heads(query, key, value)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    inference = not torch.is_grad_enabled() and not dropout
    # In float32 torch's kernel is faster for inference, where it gathers and keeps nothing.
    widest = 0 if inference and query.device.type == "cpu" and query.dtype == torch.float32 else WIDEST
    wide = sum(group.width > widest for group in packing.groups)  # wide groups come first
    states = (query, key, value)
    hidden = _Hidden(packing, attention_mask, query.dtype)
    out = [_through_kernel(*states, group, hidden.of(group), scale, dropout) for group in packing.groups[:wide]]
    if narrow := packing.groups[wide:]:
        groups = [(group, packing.by_head(group, len(query))) for group in narrow]
        attended = (
            _without_gradient(*states, groups, hidden, scale)
            if inference
            else _Attention.apply(*states, groups, hidden, scale, dropout)
        )
        out.append(attended[narrow[0].start :] if wide else attended)
    return (torch.cat(out) if wide else out[0]).unsqueeze(0), None


def same_heads(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
    """Return states in one precision with a key and a value for every head: (1, heads, ...) -> (heads, ...)."""
    device, shared = query.device.type, query.shape[1] // key.shape[1]
    if torch.is_autocast_enabled(device):  # rotated queries and keys may be float32 where values are not
        query, key, value = (states.to(torch.get_autocast_dtype(device)) for states in (query, key, value))
    if shared > 1:
        key, value = (states.repeat_interleave(shared, dim=1) for states in (key, value))
    return query.squeeze(0), key.squeeze(0), value.squeeze(0)  # cheaper than [0] on the way back


def _through_kernel(
    query: Tensor, key: Tensor, value: Tensor, group: PaddedGroup, bias: Tensor | None, scale: float, dropout: float
) -> Tensor:
    """Return the attention output of a group of long rows, (tokens, heads, head width), by torch's kernel.

    It does not keep scores for the backward pass, which for long rows would dominate memory.
    """
    q, k, v = (_rows(states, group).transpose(0, 1) for states in (query, key, value))
    mask = None if bias is None else bias.transpose(0, 1)
    out = nn.functional.scaled_dot_product_attention(q, k, v, mask, dropout_p=dropout, scale=scale)
    tokens = out.permute(0, 2, 1, 3).flatten(0, 1)
    return tokens if group.kept is None else tokens[group.kept]


@dataclass(frozen=True)
class _Hidden:
    """Which tokens are hidden from which others of a row.

    Attributes:
        packing: where the tokens lie.
        mask: the library's, see `packed_attention`; None: every token sees its whole text.
        dtype: of the scores.
    """

    packing: Layout
    mask: Tensor | None
    dtype: torch.dtype

    def of(self, group: PaddedGroup) -> Tensor | None:
        """Return the bias that hides tokens, (1, rows or 1, width or 1, width); None if nothing is hidden."""
        seen = None if group.real is None else group.real[None, :, None, :]
        if self.mask is not None:
            if self.mask.dtype != torch.bool or self.mask.shape[-1] != self.packing.shape[1]:
                raise NotImplementedError("an attention mask of numbers, or of one row that all texts make (CTRL)")
            left = self.packing.left
            columns = slice(-group.width, None) if left else slice(0, group.width)
            rows = self.mask if self.mask.shape[0] == 1 else self.mask.index_select(0, group.rows)
            seen = rows[:, :, columns, columns].transpose(0, 1)
            beyond = group.width - seen.shape[-1]
            seen = nn.functional.pad(seen, (beyond, 0, beyond, 0) if left else (0, beyond, 0, beyond))
            if group.real is not None:  # padding queries see everything: a softmax over nothing is NaN
                seen = seen | ~group.real[None, :, :, None]
        if seen is None:
            return None
        return torch.zeros(seen.shape, dtype=self.dtype, device=seen.device).masked_fill_(~seen, -math.inf)


def _without_gradient(
    query: Tensor, key: Tensor, value: Tensor, groups: _Groups, hidden: _Hidden, scale: float
) -> Tensor:
    """Return the same as `_Attention`, without keeping anything for a backward pass."""
    heads, tokens, _ = query.shape
    states = [_by_head(each.transpose(0, 1)) for each in (query, key, value)]
    out = query.new_empty(tokens, heads, value.shape[-1])
    ignored = query.new_empty(1, 1, 1)
    for group, places in groups:
        q, k, v = (_padded(each, group, places) for each in states)
        scores = torch.baddbmm(ignored, q, k.transpose(1, 2), beta=0, alpha=scale)
        if (sums := _exponentials(scores, places, hidden)) is not None:
            _zero_padding(v, group, heads)
            rows = torch.bmm(scores, v).div_(sums)
        else:
            rows = torch.bmm(_softmax(_hide(scores, group, hidden)), v)
        _put(out, rows, group, places)
    return out


def _exponentials(scores: Tensor, places: ByHead, hidden: _Hidden) -> Tensor | None:
    """Replace bfloat16 scores, (heads · rows, width, width), by their exponentials; return sums over real tokens.

    Return None and leave the scores as they are if this is not faster, if more than padding is hidden, or if
    exponentials without the usual shift by the row's maximum could overflow. This is decided per group, so a text's
    rounding may depend on the other texts of its group.
    """
    if scores.dtype != torch.bfloat16 or scores.device.type != "cpu" or hidden.mask is not None:
        return None
    least, largest = torch.aminmax(scores)
    if not (least > -_SAFE and largest < _SAFE):  # also true for NaN
        return None
    scores.exp_()
    return scores.sum(dim=-1, keepdim=True) if places.real is None else torch.bmm(scores, places.real)


def _zero_padding(rows: Tensor, group: PaddedGroup, heads: int) -> None:
    """Set the padding tokens of rows, (heads · rows, width, head width), to zero."""
    if group.padding is not None:
        rows.view(heads, -1, rows.shape[-1]).index_fill_(1, group.padding, 0)


def _hide(scores: Tensor, group: PaddedGroup, hidden: _Hidden) -> Tensor:
    """Add the bias that hides tokens to the scores."""
    if (bias := hidden.of(group)) is not None:
        scores.view(-1, len(group.rows), *scores.shape[1:]).add_(bias)
    return scores


def _softmax(scores: Tensor) -> Tensor:
    """Return the softmax over the last dimension, computed in float32, which is also faster on a CPU."""
    width = scores.shape[-1]
    exact = scores.to(_exact(scores))
    if width < VECTOR:  # slow on less than a vector register
        exact = nn.functional.pad(exact, (0, VECTOR - width), value=-math.inf)
    return exact.softmax(dim=-1)[..., :width].to(scores.dtype)


class _Attention(torch.autograd.Function):
    """Attention group by group: (heads, tokens, head width) three times -> (tokens, heads, head width)."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        groups: _Groups,
        hidden: _Hidden,
        scale: float,
        dropout: float,
    ) -> Tensor:
        heads, tokens, _ = query.shape
        states = [_by_head(each.transpose(0, 1)) for each in (query, key, value)]
        out = query.new_empty(tokens, heads, value.shape[-1])
        saved: list[Tensor | None] = []
        for group, places in groups:
            q, k, v = (_padded(each, group, places) for each in states)
            for each in (k, v):  # padding then has weights, but neither contributes nor receives gradients
                _zero_padding(each, group, heads)
            q = q * scale
            weights = torch.bmm(q, k.transpose(1, 2))
            if (sums := _exponentials(weights, places, hidden)) is None:
                scores = _hide(weights, group, hidden)
                weights = scores.softmax(dim=-1, dtype=_exact(scores)).to(scores.dtype)
            dropped = weights * scaled_mask(weights, dropout) if dropout else weights
            gathered = torch.bmm(dropped, v)
            _put(out, gathered if sums is None else gathered.div_(sums), group, places)
            saved += [q, k, v, weights, dropped, sums]
        ctx.save_for_backward(out, *saved)
        ctx.groups, ctx.scale, ctx.tokens = groups, scale, tokens
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        out, *saved = ctx.saved_tensors
        heads, first = gradient.shape[1], ctx.groups[0][0].start
        # (tokens, heads, head width); the tokens of wider rows come before the first group
        d_query, d_key, d_value = (saved[0].new_empty(ctx.tokens, heads, each.shape[-1]) for each in saved[:3])
        for whole in (d_query, d_key, d_value):
            whole[:first] = 0
        # The softmax's backward pass subtracts sum(weights * their gradients), which equals sum(gradient * out).
        # In bfloat16 this rounds the gradients of queries and keys slightly more than in float32, and is faster.
        taken_off = _by_head((gradient * out).sum(dim=-1, keepdim=True))
        gradient = _by_head(gradient)
        for index, (group, places) in enumerate(ctx.groups):
            q, k, v, weights, dropped, sums = saved[6 * index : 6 * index + 6]
            d_out, less = (_padded(each, group, places) for each in (gradient, taken_off))
            for each in (d_out, less):
                _zero_padding(each, group, heads)
                if sums is not None:
                    each.div_(sums)
            _put(d_value, torch.bmm(dropped.transpose(1, 2), d_out), group, places)
            d_scores = torch.bmm(d_out, v.transpose(1, 2)).mul_(dropped).addcmul_(weights, less, value=-1)
            _put(d_query, torch.bmm(d_scores, k).mul_(ctx.scale), group, places)
            _put(d_key, torch.bmm(d_scores.transpose(1, 2), q), group, places)
        return (*(d.transpose(0, 1) for d in (d_query, d_key, d_value)), None, None, None, None)


def _exact(values: Tensor) -> torch.dtype:
    """Return the precision of the softmax; in bfloat16 it would be slower on a CPU."""
    return torch.promote_types(values.dtype, torch.float32)


def _rows(states: Tensor, group: PaddedGroup) -> Tensor:
    """Return the padded rows of a group: (heads, tokens, head width) -> (heads, rows, width, head width)."""
    places = group.gather
    part = states[:, group.start : group.stop] if places is None else states.index_select(1, places)
    return part.unflatten(1, (len(group.rows), group.width))


def _by_head(states: Tensor) -> Tensor:
    """Flatten tokens and heads: (tokens, heads, head width) -> (tokens · heads, head width)."""
    return states.reshape(-1, states.shape[-1])


def _padded(states: Tensor, group: PaddedGroup, places: ByHead) -> Tensor:
    """Gather the padded rows of a group: (tokens · heads, head width) -> (heads · rows, width, head width)."""
    return states.index_select(0, places.taken).view(-1, group.width, states.shape[-1])


def _put(out: Tensor, rows: Tensor, group: PaddedGroup, places: ByHead) -> None:
    """Write the rows of a group back to its tokens in `out`, (tokens, heads, width): the inverse of `_padded`."""
    of_group = out[group.start : group.stop]
    torch.index_select(_by_head(rows), 0, places.put, out=of_group.view(-1, of_group.shape[-1]))
