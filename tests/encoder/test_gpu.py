"""What only a GPU shows: FlashAttention over packed texts answers and learns as padding does, and the same twice."""

import copy

import pytest
import torch

from nlp_transfer.encoder import packed, varlen
from nlp_transfer.encoder.classifier import forward

from .conftest import stir
from .test_packed import HEADS, LENGTHS, PACKED, apart, rows, without_dropout

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", PACKED)
def test_a_packed_model_answers_and_learns_as_the_padded_one(build, family, head):
    classifier = build(family, head)
    stir(classifier.model)
    without_dropout(classifier.model)
    padded, model = copy.deepcopy(classifier.model).cuda(), classifier.model.cuda()
    packed.pack(model, classifier.anatomy, classifier.tokenizer, half=True)
    assert {module.config._attn_implementation for module in model.modules() if hasattr(module, "config")} == {
        varlen.NAME
    }
    for name, lengths in LENGTHS.items():
        batch = {key: value.cuda() for key, value in rows(classifier, lengths).items()}
        found = {}
        for kind, each in (("exact", padded), ("padded", padded), ("packed", model)):
            with torch.autocast("cuda", torch.bfloat16, enabled=kind != "exact"):
                each.zero_grad()
                logits = forward(each, batch).logits.float()
                logits.square().sum().backward()
            found[kind] = logits, torch.cat([p.grad.flatten() for p in each.parameters() if p.grad is not None])
        for exact, one, other in zip(*(found[kind] for kind in ("exact", "padded", "packed")), strict=True):
            assert apart(exact, other) < max(0.02, 1.5 * apart(exact, one)), name


@pytest.mark.parametrize("window", [None, 32])
def test_long_texts_learn_the_same_bits_twice_and_what_they_should(window):
    bounds = torch.tensor([0, 900, 1300, 1310], dtype=torch.int32, device="cuda")
    generator = torch.Generator("cuda").manual_seed(0)
    states = [
        torch.randn(1310, 4, 64, generator=generator, device="cuda").bfloat16().requires_grad_() for _ in range(3)
    ]
    exact = [each.detach().float().cpu().requires_grad_() for each in states]
    wanted = varlen._one_by_one(*exact, bounds.cpu(), 0.0, False, None, window)
    gradient = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))
    runs = []
    for _ in range(5):
        out = varlen._Flash.apply(*states, bounds, 900, 0.0, False, None, window)
        runs.append((out, *torch.autograd.grad(out, states, gradient.bfloat16().cuda())))
    for other in runs[1:]:
        assert all(map(torch.equal, runs[0], other))
    for found, right in zip(runs[0], (wanted, *torch.autograd.grad(wanted, exact, gradient)), strict=True):
        assert apart(right, found.float().cpu()) < 0.01
    assert not torch.are_deterministic_algorithms_enabled()


def test_attention_drops_a_share_of_its_weights():
    """With equal keys and values of one, what is gathered counts the weights that are left."""
    bounds = torch.tensor([0, 128, 256], dtype=torch.int32, device="cuda")
    query, key = (torch.zeros(256, 4, 32, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    left = varlen._Flash.apply(query, key, torch.ones_like(key), bounds, 128, 0.25, False, None, None).float()
    assert left.mean().item() == pytest.approx(1, abs=0.02)
    assert left[:, :, 0].std().item() == pytest.approx((1 / 3 / 128) ** 0.5, rel=0.15)
