"""Cheap dropout is dropout: as many zeros, the same expectation, the mask hangs on torch's random state alone."""

import copy

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from nlp_transfer.encoder.attention import packed_attention
from nlp_transfer.encoder.dropout import CheapDropout, make_dropout_cheap, scaled_mask
from nlp_transfer.encoder.layout import Layout

KINDS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", KINDS, ids=str)
@pytest.mark.parametrize("share", [0.05, 0.1, 0.5, 0.9])
def test_the_mask_has_dropouts_mean_and_variance(dtype: torch.dtype, share: float):
    torch.manual_seed(0)
    count = 400_000
    mask = scaled_mask(torch.empty(count, dtype=dtype), share)
    assert (mask.dtype, mask.shape) == (dtype, (count,))
    values = mask.double()
    kept = values[values != 0]
    assert len(kept.unique()) == 1
    assert kept[0].item() == pytest.approx(1 / (1 - share), rel=max(torch.finfo(dtype).eps, 1e-4))
    deviation = (share * (1 - share) / count) ** 0.5
    assert abs(len(kept) / count - (1 - share)) < 5 * deviation
    assert values.mean().item() == pytest.approx(1, abs=5 * deviation / (1 - share) + torch.finfo(dtype).eps)
    assert values.var().item() == pytest.approx(share / (1 - share), rel=0.03)


@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_values_are_dropped_independently_of_their_neighbours(dtype: torch.dtype):
    torch.manual_seed(0)
    kept = (scaled_mask(torch.empty(300, 1000, dtype=dtype), 0.3) != 0).double()
    for distance in (1, 2, 4, 1000):  # two bytes a value, four values a draw, the value below
        flat = kept.flatten()
        both = (flat[distance:] * flat[:-distance]).mean().item()
        assert both == pytest.approx(0.49, abs=0.005)


@pytest.mark.parametrize("dtype", KINDS, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7), (2, 3, 5), (0, 4)])
def test_odd_sizes_keep_their_shape(dtype: torch.dtype, shape: tuple[int, ...]):
    mask = scaled_mask(torch.ones(shape, dtype=dtype), 0.5)
    assert (mask.shape, mask.dtype) == (torch.Size(shape), dtype)
    assert set(mask.flatten().tolist()) <= {0.0, 2.0}


@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_shares_at_the_ends(dtype: torch.dtype):
    values = torch.ones(100_000, dtype=dtype)
    assert torch.equal(scaled_mask(values, 0.0), values)
    assert not scaled_mask(values, 1.0).any()
    torch.manual_seed(0)
    nearly = scaled_mask(values, 0.999).double()
    assert nearly.isfinite().all()
    assert 50 < (nearly != 0).sum() < 160
    assert nearly.max().item() == pytest.approx(1000, rel=0.02)


def test_torchs_seed_decides_the_mask_and_nothing_else_does():
    values = torch.ones(7, 11)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second = scaled_mask(values, 0.5), scaled_mask(values, 0.5)
    assert not torch.equal(first, second)  # the state moves on
    np.random.seed(9)  # noqa: NPY002  # the global state is what must not matter
    torch.set_rng_state(state)
    assert torch.equal(first, scaled_mask(values, 0.5))
    torch.manual_seed(3)
    assert torch.equal(first, scaled_mask(values, 0.5))
    torch.manual_seed(4)
    assert not torch.equal(first, scaled_mask(values, 0.5))


def test_the_gradient_is_the_same_mask():
    values = torch.full((50, 50), 3.0, requires_grad=True)
    out = CheapDropout(0.4)(values)
    out.sum().backward()
    torch.testing.assert_close(out.detach(), values.grad * 3)
    assert 0.3 < (values.grad == 0).float().mean() < 0.5


def test_it_is_still_while_evaluating_and_without_a_share():
    values = torch.rand(4, 4)
    state = torch.get_rng_state()
    assert torch.equal(CheapDropout(0.4).eval()(values), values)
    assert torch.equal(CheapDropout(0.0).train()(values), values)
    assert torch.equal(state, torch.get_rng_state())


class Own(nn.Dropout):
    """Somebody's dropout of their own."""


def nested() -> nn.Module:
    inner = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.3), nn.Sequential(Own(0.4)))
    return nn.Sequential(inner, nn.Dropout(0.2).eval(), nn.Dropout(0.1, inplace=True), nn.Dropout1d(0.1))


def test_every_plain_dropout_is_replaced_and_no_other():
    model = nested()
    names, state = [name for name, _ in model.named_modules()], copy.deepcopy(model.state_dict())
    make_dropout_cheap(model)
    assert [name for name, _ in model.named_modules()] == names
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert (type(model[0][1]), model[0][1].p, model[0][1].training) == (CheapDropout, 0.3, True)
    assert (type(model[1]), model[1].p, model[1].training) == (CheapDropout, 0.2, False)
    # Whoever drops in place may read what was dropped from the tensor that it gave.
    assert [type(module) for module in (model[0][2][0], model[2], model[3])] == [Own, nn.Dropout, nn.Dropout1d]
    assert model.train()[1].training
    assert not model.eval()[0][1].training


def test_adapters_drop_as_cheaply():
    model = get_peft_model(nested(), LoraConfig(target_modules=["0.0"], r=2, lora_dropout=0.25))
    make_dropout_cheap(model)
    assert not [name for name, m in model.named_modules() if type(m) is nn.Dropout and not m.inplace]
    assert sorted(m.p for m in model.modules() if isinstance(m, CheapDropout)) == [0.2, 0.25, 0.3]
    state = torch.get_rng_state()
    with torch.no_grad():
        model.get_submodule("base_model.model.0.0").lora_B.default.weight.fill_(1)
        one, other = model.train()(torch.ones(64, 4)), model(torch.ones(64, 4))
        assert not torch.equal(one, other)
        torch.set_rng_state(state)
        assert torch.equal(one, model(torch.ones(64, 4)))


def test_attention_drops_the_share_it_is_told_and_keeps_its_mean():
    lengths, columns = [30, 30, 17, 5], 30
    layout = Layout.of((torch.arange(columns) < torch.tensor(lengths)[:, None]).long())
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, sum(lengths), 8, generator=generator) for _ in range(3))
    value.requires_grad_()

    def attend(dropout: float) -> torch.Tensor:
        return packed_attention(nn.Identity(), query, key, value, None, packing=layout, dropout=dropout)[0]

    whole = attend(0.0)
    state = torch.get_rng_state()
    dropped = attend(0.3)
    (gradient,) = torch.autograd.grad(dropped.sum(), value)
    torch.set_rng_state(state)
    assert torch.equal(dropped, attend(0.3))
    torch.testing.assert_close((gradient * value).sum(), dropped.sum())  # linear in the values, with one mask
    with torch.no_grad():
        mean = torch.stack([attend(0.3) for _ in range(2000)]).mean(dim=0)
    assert (mean - whole).norm() < 0.05 * whole.norm()
    assert (dropped - whole).norm() > 0.1 * whole.norm()
