"""LoRA layers that learn through one node learn as PEFT's do, and are PEFT's where more is asked of them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from nlp_transfer.encoder import lowrank
from nlp_transfer.encoder.dropout import make_dropout_cheap
from nlp_transfer.encoder.lowrank import CheapLinear, make_lora_cheap

SHAPES = [(5, 12), (1, 7, 12), (2, 3, 12), (0, 12)]


class Two(nn.Module):
    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 10, bias=bias), nn.Linear(10, 4, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


def models(*, dtype: torch.dtype = torch.float64, bias: bool = True, **options) -> tuple[nn.Module, nn.Module]:
    """A model with LoRA as PEFT has it and the same with ours; what starts at zero does not."""
    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["first", "second"], **options)
    theirs = get_peft_model(Two(bias), config).to(dtype)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    make_dropout_cheap(theirs)  # draws the same numbers on both sides
    ours = copy.deepcopy(theirs)
    make_lora_cheap(ours)
    assert type(ours.base_model.model.first) is CheapLinear
    return theirs.train(), ours.train()


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for every layer that goes through one node."""
    made: list[int] = []
    forward = lowrank._LowRank.forward

    def counted(ctx, *given):
        made.append(1)
        return forward(ctx, *given)

    monkeypatch.setattr(lowrank._LowRank, "forward", staticmethod(counted))
    return made


def answers(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    model.zero_grad()
    x = x.clone().requires_grad_()
    torch.manual_seed(7)
    out = model(x)
    (out.float() * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    return out, [x.grad, *(p.grad for p in model.parameters() if p.requires_grad)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("bias", [True, False])
def test_answers_and_gradients_are_those_of_peft(nodes: list[int], shape: tuple[int, ...], dropout: float, bias: bool):
    theirs, ours = models(bias=bias, lora_dropout=dropout)
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (wanted, their_gradients), (found, our_gradients) = answers(theirs, x), answers(ours, x)
    assert len(nodes) == 2
    torch.testing.assert_close(found, wanted)
    assert len(our_gradients) == 5
    for mine, their in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(mine, their)


def test_in_bfloat16_it_rounds_no_worse():
    theirs, ours = models(dtype=torch.bfloat16)
    exact, _ = models(dtype=torch.float32)
    exact.load_state_dict(theirs.state_dict())
    x = torch.randn(64, 12, generator=torch.Generator().manual_seed(1)).bfloat16()
    wanted = answers(exact, x.float())[1]
    apart = [
        np.mean([float((mine.float() - right).norm() / right.norm()) for mine, right in zip(own, wanted, strict=True)])
        for own in (answers(theirs, x)[1], answers(ours, x)[1])
    ]
    assert apart[1] < 1.1 * apart[0]


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_bias": True}, {}], ids=["dora", "bias", "learning"])
def test_what_it_does_not_know_is_left_to_peft(nodes: list[int], options: dict[str, object]):
    theirs, ours = models(**options)
    if not options:
        for model in (theirs, ours):
            for name in ("first", "second"):
                model.get_submodule(f"base_model.model.{name}").get_base_layer().bias.requires_grad_()
    x = torch.randn(5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(answers(ours, x)[1], answers(theirs, x)[1])
    assert nodes == []


def test_a_layer_that_is_asked_merged_switched_off_or_of_two_adapters_is_pefts(nodes: list[int]):
    theirs, ours = models()
    x = torch.randn(5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))
    with ours.disable_adapter(), theirs.disable_adapter():
        torch.testing.assert_close(ours(x), theirs(x))
    for model in (ours, theirs):
        torch.manual_seed(3)
        model.add_adapter("other", LoraConfig(r=2, target_modules=["first"], init_lora_weights=False))
        model.to(torch.float64).base_model.set_adapter(["default", "other"])
    torch.testing.assert_close(ours(x), theirs(x))
    for model in (ours, theirs):
        model.base_model.set_adapter("default")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(ours(x), theirs(x))
    merged = ours.merge_and_unload()
    torch.testing.assert_close(merged(x), theirs(x))
    assert nodes == []
