"""AdamW through copies does what torch's does, with the gradients that the copies have."""

import copy
import math

import pytest
import torch
from torch import nn

from nlp_transfer.training import copied_adamw
from nlp_transfer.training.copied_adamw import CopiedAdamW

SHAPES = [(40, 30), (30,), (7, 30), (1,)]
OPTIONS = {"betas": (0.8, 0.95), "eps": 1e-6}


def both(kind: torch.dtype):
    """Torch's optimizer and ours over equal parameters in two groups, with their parameters and our copies."""
    generator = torch.Generator().manual_seed(0)
    made = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    own = copy.deepcopy(made)
    copies = {p: nn.Parameter(p.detach().to(kind, copy=True)) for p in own}
    theirs, ours = (
        [{"params": p[:2], "weight_decay": 0.1, "lr": 1e-2}, {"params": p[2:], "weight_decay": 0.0, "lr": 1e-3}]
        for p in (made, own)
    )
    return torch.optim.AdamW(theirs, fused=True, **OPTIONS), CopiedAdamW(ours, copies, **OPTIONS), made, own, copies


@pytest.fixture(params=[64, 1 << 20, None])
def together(request, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors are updated a few at a time, or all at once; or as on a GPU."""
    monkeypatch.setattr(copied_adamw, "_CHUNK", {"cpu": request.param} if request.param else {})


@pytest.mark.usefixtures("together")
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("largest", [0.5, math.inf])
def test_steps_are_those_of_torch(kind: torch.dtype, largest: float):
    theirs, ours, made, own, copies = both(kind)
    generator = torch.Generator().manual_seed(1)
    for index in range(5):
        for p, q in zip(made, own, strict=True):
            copies[q].grad = torch.randn(p.shape, generator=generator).to(kind)
            p.grad = copies[q].grad.float().clone()
        if index == 2:  # handed over, as after several passes
            own[0].grad, copies[own[0]].grad = copies[own[0]].grad.float(), None
        norm = torch.nn.utils.clip_grad_norm_(made, largest)
        assert ours.clip(own, largest) == pytest.approx(float(norm), rel=1e-5)
        theirs.step()
        ours.step()
        ours.zero_grad()
        for p, q in zip(made, own, strict=True):
            torch.testing.assert_close(q, p, rtol=1e-5, atol=1e-6)
            assert torch.equal(copies[q], q.to(kind))
            assert q.grad is None
            assert copies[q].grad is None


@pytest.mark.usefixtures("together")
def test_what_sleeps_or_has_no_gradient_stays():
    _, ours, _, own, copies = both(torch.bfloat16)
    before = copy.deepcopy(own)
    for p in own[1:]:
        copies[p].grad = torch.ones_like(copies[p])
    ours.param_groups[1]["lr"] = 0.0
    assert ours.clip(own[:2], 1.0) == pytest.approx(math.sqrt(30))
    ours.step()
    assert [torch.equal(p, q) for p, q in zip(own, before, strict=True)] == [True, False, True, True]
    assert set(ours.state) == {own[1]}


def test_a_norm_that_is_no_number_is_told_and_divides_nothing():
    _, ours, _, own, copies = both(torch.bfloat16)
    for p in own:
        copies[p].grad = torch.full_like(copies[p], math.inf)
    assert math.isinf(ours.clip(own, 1.0))
    for p in own:
        copies[p].grad = torch.ones_like(copies[p])
    ours.step()
    assert all(p.isfinite().all() for p in own)
