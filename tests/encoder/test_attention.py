"""Attention over packed tokens in bfloat16, beside the same in float64, row by row."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nlp_transfer.encoder import attention
from nlp_transfer.encoder.layout import Layout

HEADS, WIDTH = 3, 8

quick = settings(max_examples=60)


def layout_of(lengths: list[int], *, left: bool) -> Layout:
    column, own = torch.arange(max(lengths)), torch.tensor(lengths)[:, None]
    return Layout.of(((column >= max(lengths) - own) if left else (column < own)).long(), multiple=16, half=True)


def row_by_row(states: list[torch.Tensor], layout: Layout) -> torch.Tensor:
    """(1, heads, tokens, width) three times -> (1, tokens, heads, width), without groups, in the precision given."""
    bounds, parts = np.cumsum([0, *layout.lengths, *([layout.filling] if layout.filling else [])]), []
    for first, last in pairwise(bounds):
        q, k, v = (each[:, :, first:last] for each in states)
        weights = (q @ k.transpose(2, 3) * WIDTH**-0.5).softmax(dim=-1)
        parts.append((weights @ v).transpose(1, 2))
    return torch.cat(parts, dim=1)


def states_of(layout: Layout, size: float, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (1, HEADS, len(layout.places), WIDTH)
    q, k, v = (torch.randn(shape, generator=generator).bfloat16() for _ in range(3))
    return [each.to(dtype).requires_grad_() for each in (q * size, k, v)]


def attended(states: list[torch.Tensor], layout: Layout) -> torch.Tensor:
    return attention.packed_attention(torch.nn.Identity(), *states, None, packing=layout)[0]


lengths_st = st.lists(st.integers(1, 80), min_size=1, max_size=7)


@quick
@given(lengths_st, st.booleans(), st.sampled_from([0.01, 1.0, 10.0, 1e3]))
def test_answers_and_gradients_are_those_of_float64_but_for_rounding(lengths: list[int], left: bool, size: float):
    layout = layout_of(lengths, left=left)
    exact, rounded = states_of(layout, size, torch.float64), states_of(layout, size, torch.bfloat16)
    wanted, found = row_by_row(exact, layout), attended(rounded, layout)
    with torch.inference_mode():
        answered = attended([each.detach() for each in rounded], layout_of(lengths, left=left))
    # bfloat16 has 8 bits; scores of some hundred are off by one, so that their largest may be another
    tolerance = 0.03 * max(1.0, size)
    if size <= 10:
        for each in (found.detach(), answered):
            assert (each.double() - wanted.detach()).norm() <= tolerance * wanted.detach().norm()
        gradient = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
        wanted.backward(gradient.double())
        found.backward(gradient)
        scale = torch.cat([each.grad.flatten() for each in exact]).norm()
        for one, other in zip(rounded, exact, strict=True):
            assert (one.grad.double() - other.grad).norm() <= tolerance * scale
    assert torch.isfinite(found).all()
    assert torch.isfinite(answered).all()


@pytest.mark.parametrize("size", [1.0, 1e3], ids=["exponentials", "softmax"])
def test_both_ways_to_weights_are_taken(monkeypatch: pytest.MonkeyPatch, size: float):
    layout, seen = layout_of([40, 23, 5], left=False), []
    exponentials = attention._exponentials
    monkeypatch.setattr(attention, "_exponentials", lambda *given: seen.append(exponentials(*given)) or seen[-1])
    attended(states_of(layout, size, torch.bfloat16), layout)
    assert len(seen) == len(layout.groups)
    assert {sums is None for sums in seen} == {size > 100}


def test_what_is_no_number_stays_none():
    layout = layout_of([20, 7], left=False)
    states = [each.detach() for each in states_of(layout, 1.0, torch.bfloat16)]
    states[0][0, 0, 3, 0] = torch.nan  # a token of the first, longer text
    found = attended(states, layout)[0]
    assert not torch.isfinite(found[3, 0]).any()
    assert torch.isfinite(found[3, 1:]).all()
    assert torch.isfinite(found[20:27]).all()


def with_dropout(states: list[torch.Tensor], layout: Layout) -> torch.Tensor:
    torch.manual_seed(0)
    return attention.packed_attention(torch.nn.Identity(), *states, None, packing=layout, dropout=0.3)[0]


@pytest.mark.parametrize("left", [False, True])
def test_gradients_with_dropout_are_those_of_finite_differences(left: bool):
    layout = layout_of([17, 5, 4, 1], left=left)
    states = states_of(layout, 1.0, torch.float64)
    assert not torch.equal(with_dropout(states, layout), attended(states, layout))
    assert torch.autograd.gradcheck(lambda *given: with_dropout(list(given), layout), states, fast_mode=True)


@pytest.mark.parametrize("size", [1.0, 10.0])
def test_gradients_with_dropout_are_those_of_float64_but_for_rounding(size: float):
    layout = layout_of([70, 66, 33, 20, 3], left=False)
    exact, rounded = states_of(layout, size, torch.float64), states_of(layout, size, torch.bfloat16)
    wanted, found = with_dropout(exact, layout), with_dropout(rounded, layout)  # the masks are the same
    gradient = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    wanted.backward(gradient.double())
    found.backward(gradient)
    for one, other in [(found, wanted), *((a.grad, b.grad) for a, b in zip(rounded, exact, strict=True))]:
        assert (one.double() - other).norm() <= 0.01 * max(1.0, size) * other.norm()
