"""Attention that is told what a token sees as FlashAttention is; the kernel itself needs a GPU (test_gpu)."""

import copy

import pytest
import torch

from nlp_transfer.encoder import packed, varlen

from .conftest import stir
from .test_packed import LENGTHS, PACKED, answers_apart, assert_gradients_agree, every_case, rows, without_dropout


@pytest.fixture
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_supports_flash", lambda model, *_: model._supports_flash_attn)


@pytest.mark.usefixtures("_as_on_a_gpu")
@every_case
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


@pytest.mark.filterwarnings("ignore:.*Disabling autocast")
@pytest.mark.parametrize("family", PACKED)
def test_what_is_tried_on_a_gpu_holds_for_every_family(build, family, monkeypatch: pytest.MonkeyPatch):
    """With rows and weights on a CPU, where the kernel's part is done in float32."""
    classifier = build(family, "pooled")
    kind, real = type(classifier.model), packed.unequal_rows
    where, asked = kind.device, []

    def rows_on_a_cpu(*args, **options):
        asked.append(options)
        with pytest.MonkeyPatch.context() as for_now:
            for_now.setattr(kind, "device", where)
            return real(*args, **options)

    monkeypatch.setattr(packed, "unequal_rows", rows_on_a_cpu)
    monkeypatch.setattr(kind, "device", torch.device("cuda"))
    packed.pack(classifier.model, classifier.anatomy, classifier.tokenizer, half=True, anywhere=False)
    used = {module.config._attn_implementation for module in classifier.model.modules() if hasattr(module, "config")}
    assert used == {varlen.NAME}
    assert asked[-1] == {"tokens": {"modernbert": 12, "gemma3": 24, "gemma3_text": 24}.get(family, 8)}
