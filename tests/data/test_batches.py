"""Batches: every example once, the same for any number of ranks, within the budget, laid out exactly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlp_transfer.data.batches import (
    Columns,
    Order,
    Padding,
    collate,
    evaluation_batches,
    micro_batches,
    steps_per_epoch,
)
from nlp_transfer.data.ragged import ranges
from tests.data.windows import examples_st, make_tokens


@given(examples=st.integers(1, 50), batch=st.integers(1, 12), seed=st.integers(0, 3), epochs=st.integers(1, 3))
def test_every_example_once_an_epoch(examples: int, batch: int, seed: int, epochs: int):
    per_epoch = steps_per_epoch(examples, batch)
    order = Order(examples, batch_size=batch, seed=seed)
    for epoch in range(epochs):
        steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        seen = np.concatenate([order.step(s) for s in steps])
        assert sorted(seen.tolist()) == list(range(examples))


def test_order_depends_on_seed_and_epoch_and_not_on_global_state():
    first = Order(1000, batch_size=1000, seed=1).step(0)
    np.random.seed(5)  # noqa: NPY002  # the global state is what must not matter
    assert (first == Order(1000, batch_size=1000, seed=1).step(0)).all()
    assert (first != Order(1000, batch_size=1000, seed=2).step(0)).any()
    assert (first != Order(1000, batch_size=1000, seed=1).step(1)).any()


def test_steps_do_not_depend_on_the_order_of_access():
    order = Order(50, batch_size=8, seed=3)
    forwards = [order.step(step).tolist() for step in range(21)]
    assert [order.step(step).tolist() for step in reversed(range(21))][::-1] == forwards


@settings(max_examples=60)
@given(
    windows=examples_st,
    world=st.integers(1, 4),
    most=st.one_of(st.none(), st.integers(1, 5)),
    budget=st.integers(1, 200),
)
def test_micro_batches_deal_every_example_to_one_rank_within_the_budget(windows, world, most, budget):
    tokens = make_tokens(windows)
    step = np.arange(len(windows))[::2]
    dealt = []
    for rank in range(world):
        for batch in micro_batches(tokens, step, rank=rank, world=world, most_examples=most, most_tokens=budget):
            padded = tokens.longest[batch].max() * tokens.windows[batch].sum()
            assert padded <= budget or len(batch) == 1
            assert most is None or len(batch) <= most
            dealt += batch.tolist()
    assert sorted(dealt) == step.tolist()


@settings(max_examples=60)
@given(
    windows=st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=2), min_size=1, max_size=7),
    cost=st.integers(0, 60),
)
def test_micro_batches_are_the_cheapest_cut(windows, cost):
    tokens = make_tokens(windows)
    everything = np.arange(len(windows))

    def price(batches) -> int:
        return sum(int(tokens.longest[b].max() * tokens.windows[b].sum()) + cost for b in batches)

    found = micro_batches(tokens, everything, rank=0, world=1, most_examples=None, most_tokens=10**6, pass_cost=cost)
    ordered = everything[np.argsort(-tokens.longest, kind="stable")]
    every = [
        np.split(ordered, [i + 1 for i in range(len(ordered) - 1) if mask >> i & 1])
        for mask in range(2 ** (len(ordered) - 1))
    ]
    assert price(found) == min(map(price, every))


@given(windows=examples_st, budget=st.integers(1, 200))
def test_evaluation_covers_every_example_once(windows, budget):
    batches = evaluation_batches(make_tokens(windows), most_tokens=budget)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(windows)))


@pytest.mark.parametrize("least", [1, 40])
@pytest.mark.parametrize("left", [False, True])
@settings(max_examples=40)
@given(windows=examples_st)
def test_collate_lays_out_exactly_the_tokens(left: bool, least: int, windows):
    tokens = make_tokens(windows)
    columns = Columns(tokens, np.arange(len(windows)), np.ones(len(windows), np.float32))
    chosen = np.arange(len(windows))[::-1]
    batch = collate(columns, chosen, padding=Padding(token=0, type=7, left=left, least=least))
    assert batch["input_ids"].shape[1] == max(least, int(tokens.longest.max()))
    expected = [
        tokens.ids[tokens.offsets[s] : tokens.offsets[s + 1]]
        for e in chosen
        for s in range(tokens.first[e], tokens.first[e + 1])
    ]
    for row, mask, types, ids in zip(
        batch["input_ids"], batch["attention_mask"], batch["token_type_ids"], expected, strict=True
    ):
        assert row[mask == 1].tolist() == ids.tolist()
        assert (row[mask == 0] == 0).all()
        assert (types[mask == 0] == 7).all()
        assert types[mask == 1].tolist() == (ids % 2).tolist()
        assert mask[-1 if left else 0] == 1
    owner = batch.get("document", np.arange(len(chosen)))
    assert np.bincount(owner).tolist() == [len(windows[e]) for e in chosen]
    assert batch["examples"].tolist() == chosen.tolist()


@pytest.mark.parametrize("array", [False, True])
@given(windows=examples_st, draw=st.data())
def test_examples_that_are_taken_are_those_that_were_there(array: bool, windows, draw):
    tokens = make_tokens(windows)
    chosen = draw.draw(st.lists(st.integers(0, len(windows) - 1)))
    taken = tokens.take(np.array(chosen, np.int64) if array else chosen)
    assert len(taken) == len(chosen)
    for place, example in enumerate(chosen):
        assert taken.windows[place] == len(windows[example])
        own = slice(*tokens.ends[[example, example + 1]])
        assert (taken.ids[slice(*taken.ends[[place, place + 1]])] == tokens.ids[own]).all()
    borders = [tokens.first[[e, e + 1]] for e in chosen]
    assert ranges(tokens.first, np.array(chosen, np.int64)).tolist() == [n for b, e in borders for n in range(b, e)]


@pytest.mark.parametrize("name", ["sequence_lengths", "windows", "ends", "sizes", "longest"])
def test_per_corpus_values_are_computed_once(name: str):
    """Or a step would take time for all rows: at a million, a tenth of the training."""
    tokens = make_tokens([[3, 4], [5]])
    assert getattr(tokens, name) is getattr(tokens, name)
