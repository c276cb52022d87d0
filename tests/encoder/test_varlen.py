"""Attention through FlashAttention asks the kernel for what the padded model does; the kernel itself needs a GPU."""

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor

from nlp_transfer.encoder import packed, varlen

from .conftest import stir
from .test_packed import HEADS, LENGTHS, PACKED, answers_apart, assert_gradients_agree, rows, without_dropout


def kernel(
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
    """What FlashAttention computes, text by text."""
    assert bounds.dtype == torch.int32
    assert not dropout
    assert longest == int(bounds.diff().max())
    texts = []
    for first, last in itertools.pairwise(bounds.tolist()):
        q, k, v = (states[first:last].transpose(0, 1) for states in (query, key, value))
        scores = q @ k.transpose(1, 2) * (q.shape[-1] ** -0.5 if scale is None else scale)
        distance = torch.arange(last - first)[:, None] - torch.arange(last - first)
        hidden = torch.zeros_like(distance, dtype=torch.bool)
        if causal:
            hidden |= distance < 0
        if window is not None:
            hidden |= distance.abs() > window
        texts.append((scores.masked_fill(hidden, -math.inf).softmax(-1) @ v).transpose(0, 1))
    return torch.cat(texts)


@pytest.fixture
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen._Flash, "apply", kernel)
    monkeypatch.setattr(packed, "_knows_flash", lambda model, *_: model._supports_flash_attn)


@pytest.mark.usefixtures("_as_on_a_gpu")
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", PACKED)
def test_texts_see_what_they_see_when_padded(build, family, head):
    classifier = build(family, head)
    stir(classifier.model)
    without_dropout(classifier.model)
    padded = copy.deepcopy(classifier.model)
    packed.pack(classifier.model, classifier.anatomy, classifier.tokenizer, half=True)
    used = {module.config._attn_implementation for module in classifier.model.modules() if hasattr(module, "config")}
    assert used == {varlen.NAME}
    for name, lengths in LENGTHS.items():
        assert answers_apart(padded, classifier.model, rows(classifier, lengths)) < 1e-5, name
    assert_gradients_agree(padded, classifier.model, rows(classifier, LENGTHS["unequal"]))
