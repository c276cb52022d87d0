"""A key changes with everything that changes a bit, and with nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from nlp_transfer.data.batches import Padding
from nlp_transfer.data.ragged import Tokens
from nlp_transfer.data.task import Task
from nlp_transfer.encoder import fingerprint
from nlp_transfer.encoder.anatomy import output_layers
from nlp_transfer.encoder.classifier import Classifier, forward
from nlp_transfer.encoder.fingerprint import key_of, model_digest, parameters_digest
from nlp_transfer.strategies import Adapter, Finetune, Lora, Probe

TOKENS = Tokens(
    ids=np.array([2, 7, 8, 3, 2, 9, 3], np.int32),
    types=np.zeros(7, np.int8),
    offsets=np.array([0, 4, 7]),
    first=np.array([0, 1, 2]),
    full=np.array([4, 3]),
    cut=np.zeros(2, np.int64),
)
PARTS = {
    "model": "m",
    "weights": "w",
    "code": None,
    "padding": Padding(0, 0, False),
    "batch_tokens": 4096,
    "precision": "no",
    "device": torch.device("cpu"),
}


def key(tokens: Tokens = TOKENS, what: str = "features", **parts) -> str:
    return key_of(what, tokens, **PARTS | parts)


def of_model(classifier: Classifier) -> tuple[str, str]:
    return model_digest(classifier.model), parameters_digest(classifier.model)


def changed(**arrays) -> Tokens:
    return dataclasses.replace(TOKENS, **arrays)


def test_every_part_of_what_is_asked_changes_the_key(monkeypatch: pytest.MonkeyPatch):
    keys = {
        "as it is": key(),
        "what": key(what="states 3"),
        "model": key(model="n"),
        "weights": key(weights="n"),
        "code": key(code="a" * 40),
        "padding token": key(padding=Padding(1, 0, False)),
        "padding type": key(padding=Padding(0, 1, False)),
        "padding side": key(padding=Padding(0, 0, True)),
        "batches": key(batch_tokens=2048),
        "precision": key(precision="bf16"),
        "device": key(device=torch.device("meta")),
        "a token": key(changed(ids=TOKENS.ids + np.eye(1, 7, 2, dtype=np.int32)[0])),
        "the order": key(changed(ids=TOKENS.ids[[4, 5, 6, 0, 1, 2, 3]], offsets=np.array([0, 3, 7]))),
        "where texts end": key(changed(offsets=np.array([0, 3, 7]))),
        "windows": key(changed(first=np.array([0, 2]))),
        "types": key(changed(types=np.array([0, 0, 0, 0, 0, 1, 0], np.int8))),
        "no types": key(changed(types=None)),
    }
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    keys["threads"] = key()
    torch.set_num_threads(before)
    monkeypatch.setattr(fingerprint, "_versions", lambda: {"torch": "0"})
    keys["versions"] = key()
    assert len(set(keys.values())) == len(keys), keys
    monkeypatch.undo()
    assert key() == keys["as it is"]


@pytest.mark.parametrize("head", ["native", "pooled"])
def test_every_bit_below_the_output_layer_changes_the_key(build: Callable[..., Classifier], head: str):
    classifier = build("bert", head)
    model = classifier.model
    name, output = next(reversed(output_layers(model).items()))
    seen = {of_model(classifier)}
    for tensor in (output.weight, output.bias):
        tensor.data += 1
    assert {of_model(classifier)} == seen
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    below = [tensor for each, tensor in tensors.items() if not each.startswith(f"{name}.")]
    assert len(below) > 35
    for tensor in below:
        last = tensor.data.view(-1)[-1:]
        last.copy_(last + 1 if last.dtype == torch.int64 else torch.nextafter(last, torch.tensor(9.0)))
        seen.add(of_model(classifier))
    assert len(seen) == len(below) + 1


def test_how_a_model_computes_changes_the_key_and_what_it_is_called_does_not(build: Callable[..., Classifier]):
    plain = of_model(build("bert", "pooled"))
    # The seed and the labels decide the output layer alone.
    other = build("bert", "pooled", seed=5, task=Task("single_label", ("a", "b"), pair=False))
    assert of_model(other) == plain
    other.model.config._name_or_path = other.model.name_or_path = "elsewhere"
    other.model.train()
    assert of_model(other) == plain
    variants = {
        "pooling": build("bert", "pooled", pooling="max"),
        "layers": build("bert", "pooled", layers=[1, 2]),
        "combined": build("bert", "pooled", layers=[1, 2], combine="concat"),
        "siamese": build("bert", "pooled", pairs="siamese", task=Task("single_label", ("a", "b"), pair=True)),
        "attention": build("bert", "pooled", attention="eager"),
        "head": build("bert", "native"),
        "family": build("roberta", "pooled"),
        "a constant": build("bert", "pooled"),
        "a function": build("bert", "pooled"),
    }
    layer = variants["a constant"].model.encoder.encoder.layer[0]
    layer.output.LayerNorm.eps = 1e-5
    layer = variants["a function"].model.encoder.encoder.layer[0]
    layer.intermediate.intermediate_act_fn = torch.nn.SiLU()
    found = {model_digest(variant.model) for variant in variants.values()}
    assert len(found | {plain[0]}) == len(variants) + 1


@pytest.mark.parametrize("family", ["bert", "modernbert", "deberta-v2", "xlnet", "t5", "gpt2", "llama", "big_bird"])
@pytest.mark.parametrize("strategy", [Probe(), Lora(rank=2)], ids=["probe", "lora"])
def test_the_same_model_loaded_again_has_the_same_key_after_it_ran(
    build: Callable[..., Classifier], family: str, strategy
):
    found = []
    for _ in range(2):
        classifier = build(family, "pooled")
        with torch.random.fork_rng():
            torch.manual_seed(0)  # LoRA draws
            strategy.apply(classifier)
        found.append(of_model(classifier))
        with torch.inference_mode():
            ids = torch.arange(5, 11).repeat(2, 1)
            forward(classifier.model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        found.append(of_model(classifier))
    assert len(set(found)) == 1


def test_a_pass_that_changes_the_model_changes_its_description(build: Callable[..., Classifier], tmp_path):
    classifier = build("big_bird", "pooled")
    classifier.model.encoder.set_attention_type("block_sparse")
    before = of_model(classifier)
    ids = torch.arange(5, 11).repeat(2, 1)
    with torch.inference_mode():  # a text too short for sparse attention
        forward(classifier.model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    after = of_model(classifier)
    assert after[0] != before[0]
    assert after[1] == before[1]


@pytest.mark.parametrize(
    ("strategy", "same"),
    [
        (Finetune(), True),
        (Finetune(freeze_layers=1), True),
        (Finetune(reinit_layers=1), False),
        (Lora(), False),
        (Adapter(peft_type="VERA"), False),
    ],
    ids=["finetune", "freeze", "reinit", "lora", "vera"],
)
def test_what_a_strategy_puts_below_the_output_layer_counts(build: Callable[..., Classifier], strategy, same: bool):
    plain, applied = build("bert", "pooled"), build("bert", "pooled")
    strategy.apply(applied)
    assert (of_model(applied) == of_model(plain)) == same
