"""Where packed tokens lie: there and back is the identity, groups hold every token once and cost as little as they can.

Attention over them is compared with the sentence in its docstring: within each text alone.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nlp_transfer.encoder import layout as module
from nlp_transfer.encoder.attention import packed_attention
from nlp_transfer.encoder.layout import Costs, Layout

quick = settings(max_examples=60)
lengths_st = st.lists(st.integers(1, 40), min_size=1, max_size=12)
costs_st = st.sampled_from([0, 300, 16_384])  # a group a length, something between, one group


def mask_of(lengths: list[int], *, left: bool) -> torch.Tensor:
    column, own = torch.arange(max(lengths)), torch.tensor(lengths)[:, None]
    return ((column >= max(lengths) - own) if left else (column < own)).long()


def layout_of(lengths: list[int], *, left: bool, group_cost: int, learning: bool = True, multiple: int = 1) -> Layout:
    with pytest.MonkeyPatch.context() as patch, torch.set_grad_enabled(learning):
        for name in ("TRAINING", "INFERENCE"):
            patch.setattr(module, name, replace(getattr(module, name), group=group_cost))
        return Layout.of(mask_of(lengths, left=left), multiple=multiple)


@quick
@given(lengths_st, st.booleans(), st.sampled_from([1, 16]))
def test_there_and_back_keeps_every_token_and_leaves_zeros_elsewhere(lengths: list[int], left: bool, multiple: int):
    mask = mask_of(lengths, left=left)
    layout = Layout.of(mask, multiple=multiple)
    values = torch.rand(*mask.shape, 3) + 1
    packed = layout.pack(values)
    assert packed.shape == (1, sum(lengths) + layout.filling, 3)
    assert torch.equal(layout.unpack(packed), values * mask[..., None])
    states = values[mask.bool()]  # in the order of the batch
    if len(lengths) > 1:
        assert torch.equal(states[layout.ranks], packed[0])
        assert torch.equal(packed[0][layout.sources], states)
    positions = torch.arange(mask.shape[1])[None]  # one row stands for all
    assert torch.equal(layout.pack(positions), layout.pack(positions.expand(mask.shape)))


@quick
@given(lengths_st, st.booleans())
def test_the_number_of_packed_tokens_is_a_multiple_where_texts_are_long_enough(lengths: list[int], left: bool):
    layout = Layout.of(mask_of(lengths, left=left), multiple=16)
    packed = len(layout.places)
    assert packed - layout.filling == sum(lengths)
    assert packed % 16 == 0 or layout.filling == max(lengths) or len(lengths) == 1
    assert layout.groups[-1].stop == packed


@quick
@given(lengths_st, st.booleans(), costs_st, st.booleans(), st.sampled_from([1, 16]))
def test_groups_hold_every_row_and_token_once(lengths: list[int], left: bool, cost: int, learning: bool, multiple: int):
    mask = mask_of(lengths, left=left)
    layout = layout_of(lengths, left=left, group_cost=cost, learning=learning, multiple=multiple)
    table, real_tokens = torch.arange(mask.numel()).view(mask.shape), mask.bool()
    rows = [group.rows for group in layout.groups]
    names = layout.pack(table)[0]  # a token's place in the padded batch
    if layout.filling:  # the first tokens of the longest text once more, as a text of its own behind the others
        assert rows[-1][-1] == layout.order[0]
        rows[-1] = torch.cat([rows[-1][:-1], torch.tensor([len(lengths)])])
        again, own = torch.zeros_like(table[:1]), torch.zeros_like(real_tokens[:1])
        at = slice(-layout.filling, None) if layout.left else slice(0, layout.filling)
        again[0, at], own[0, at] = table[layout.order[0], : layout.filling], True
        table, real_tokens = torch.cat([table, again]), torch.cat([real_tokens, own])
    assert torch.cat(rows).sort().values.tolist() == list(range(len(table)))
    ends = [0, *(group.stop for group in layout.groups)]
    assert [group.start for group in layout.groups] == ends[:-1]
    assert ends[-1] == sum(lengths) + layout.filling
    for group, members in zip(layout.groups, rows, strict=True):
        longest = int(real_tokens[members].sum(dim=1).max())
        assert group.width == (widened(longest) if learning else longest)
        beyond = max(0, group.width - mask.shape[1])
        edges = (beyond, 0) if layout.left else (0, beyond)
        columns = slice(-group.width, None) if layout.left else slice(0, group.width)
        wanted, real = (torch.nn.functional.pad(each, edges)[members, columns] for each in (table, real_tokens))
        gather = torch.arange(group.start, group.stop) if group.gather is None else group.gather
        found = names[gather].view(len(members), group.width)
        assert (group.real is None) == bool(real.all())
        assert group.real is None or torch.equal(group.real, real)
        assert torch.equal(found[real], wanted[real])
        kept = torch.arange(real.numel()) if group.kept is None else group.kept
        assert torch.equal(names[group.start : group.stop], wanted.flatten()[kept])
        padding = [] if group.padding is None else group.padding.tolist()
        assert sorted([*kept.tolist(), *padding]) == list(range(real.numel()))


@quick
@given(st.lists(st.integers(17, 40), min_size=2, max_size=12), st.booleans())
def test_filling_is_a_row_of_the_last_group_where_that_is_narrow(lengths: list[int], half: bool):
    layout = Layout.of(mask_of(lengths, left=False), multiple=16, half=half)
    plain = Layout.of(mask_of(lengths, left=False), half=half)
    assert layout.filling == -sum(lengths) % 16
    assert len(layout.groups) == len(plain.groups)
    wide = Layout.of(mask_of([300, 300, 290], left=False), multiple=16, half=half)
    assert wide.groups[-1].width == 16  # of its own: 290 columns cost more


def widened(length: int) -> int:
    return length if length >= 64 else -(-length // 16) * 16


def cost_of(lengths: np.ndarray, cuts: list[tuple[int, int]], costs: Costs) -> int:
    cost = len(cuts) * costs.group
    for first, last in cuts:
        width = costs.width(lengths[first])
        gathered = lengths[first] != lengths[last - 1] or not costs.in_place
        cost += (last - first) * width * (width + costs.token * gathered)
    return int(cost)


@quick
@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=9),
    st.sampled_from([0, 5_000, 16_384, 100_000]),
    st.sampled_from(["TRAINING", "TRAINING_IN_HALF", "INFERENCE", "INFERENCE_IN_HALF"]),
)
def test_no_other_cut_costs_less(lengths: list[int], group_cost: int, name: str):
    ordered = np.array(sorted(lengths, reverse=True))
    costs = replace(getattr(module, name), group=group_cost)
    found = module._cut(ordered, costs)
    every = []
    for bits in range(2 ** (len(ordered) - 1)):
        ends = [i + 1 for i in range(len(ordered) - 1) if bits >> i & 1]
        every.append(list(zip([0, *ends], [*ends, len(ordered)], strict=True)))
    # among them one group for all rows, and one a length
    assert cost_of(ordered, found, costs) == min(cost_of(ordered, cuts, costs) for cuts in every)


@quick
@given(st.lists(st.integers(1, 300), min_size=1, max_size=40))
def test_no_group_has_more_pairs_of_tokens_than_the_cache_holds(lengths: list[int]):
    layout = layout_of(lengths, left=False, group_cost=16_384)
    assert all(len(group.rows) * group.width**2 <= 1 << 16 or len(group.rows) == 1 for group in layout.groups)


@pytest.mark.parametrize(
    "mask",
    [
        [[1, 1, 0], [1, 0, 0]],  # a column of nothing but padding: it may make as many columns as there are tokens
        [[1, 1, 1], [0, 0, 0]],
        [[1, 1, 1], [1, 0, 1]],
        [[1, 1, 0], [0, 1, 1]],
        [[0, 1, 0], [1, 1, 1]],
    ],
)
def test_a_mask_that_it_would_get_wrong_is_refused(mask: list[list[int]]):
    with pytest.raises(ValueError, match="padding must be on one side"):
        Layout.of(torch.tensor(mask))


@quick
@given(
    lengths_st,
    st.booleans(),
    costs_st,
    st.sampled_from(["all", "causal", "window"]),
    st.integers(1, 2),
    st.sampled_from([1, 16]),
)
def test_attention_is_that_of_each_text_alone(lengths, left, cost, sight, shared, multiple):
    generator = torch.Generator().manual_seed(len(lengths))
    heads, width, columns = 4, 8, max(lengths)
    layout = layout_of(lengths, left=left, group_cost=cost, multiple=multiple)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)

    query = draw(len(lengths), columns, heads, width)
    key, value = (draw(len(lengths), columns, heads // shared, width) for _ in range(2))
    place = torch.arange(columns)
    distance = place[:, None] - place
    seen = {"all": distance < columns, "causal": distance >= 0, "window": distance.abs() < 3}[sight]
    real = mask_of(lengths, left=left).bool()
    mask = None if sight == "all" else seen & real[:, None, None]
    packed = [layout.pack(states).transpose(1, 2) for states in (query, key, value)]
    found = packed_attention(torch.nn.Identity(), *packed, mask, packing=layout)[0]
    found = layout.unpack(found)

    wanted = torch.zeros_like(found)
    for row, length in enumerate(lengths):
        own = slice(columns - length, None) if left else slice(0, length)
        q, k, v = (states[row, own].transpose(0, 1) for states in (query, key, value))
        added = torch.zeros(length, length, dtype=q.dtype).masked_fill(~seen[:length, :length], -torch.inf)
        alone = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=added, enable_gqa=shared > 1)
        wanted[row, own] = alone.transpose(0, 1)
    torch.testing.assert_close(found, wanted)
    for exact in (torch.float64, torch.float32):  # where nothing is learned they take other kernels
        with torch.no_grad():
            answering = layout_of(lengths, left=left, group_cost=cost, learning=False, multiple=multiple)
            packed = [answering.pack(states.to(exact)).transpose(1, 2) for states in (query, key, value)]
            answer = packed_attention(torch.nn.Identity(), *packed, mask, packing=answering)[0]
            torch.testing.assert_close(answering.unpack(answer), wanted.to(exact), atol=1e-5, rtol=1e-5)
    leaves = [query, key, value]
    weights = torch.randn(found.shape, generator=generator, dtype=found.dtype)
    for one, other in zip(
        *(torch.autograd.grad((out * weights).sum(), leaves) for out in (found, wanted)), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_attention_cannot_be_differentiated_twice():
    """Its backward pass is not differentiable, and must say so instead of leaving terms out."""
    layout = Layout.of(mask_of([3, 2], left=False))
    states = torch.rand(1, 2, 5, 4, requires_grad=True)
    out, _ = packed_attention(torch.nn.Identity(), states, states, states, None, packing=layout)
    (gradient,) = torch.autograd.grad(out.square().sum(), states, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("options", "keys"),
    [({"softcap": 30.0}, 5), ({"s_aux": torch.zeros(2)}, 5), ({}, 7)],
)
def test_attention_that_it_does_not_know_is_refused(options, keys):
    layout = Layout.of(mask_of([3, 2], left=False))
    query, key = torch.rand(1, 2, 5, 4), torch.rand(1, 2, keys, 4)
    with pytest.raises(NotImplementedError):
        packed_attention(torch.nn.Identity(), query, key, key, None, packing=layout, **options)


def test_a_causal_layer_without_a_mask_and_a_mask_of_numbers_are_refused():
    layout, states, module_ = Layout.of(mask_of([3, 2], left=False)), torch.rand(1, 2, 5, 4), torch.nn.Identity()
    with pytest.raises(NotImplementedError, match="numbers"):
        packed_attention(module_, states, states, states, torch.zeros(2, 1, 3, 3), packing=layout)
    module_.is_causal = True
    with pytest.raises(NotImplementedError, match="without a mask"):
        packed_attention(module_, states, states, states, None, packing=layout)
