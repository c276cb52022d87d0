"""Where adapters are put."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModel

from nlp_transfer.data.task import Task
from nlp_transfer.encoder.classifier import load_classifier
from nlp_transfer.errors import UserError
from nlp_transfer.settings import EncoderSettings
from nlp_transfer.strategies import Lora
from nlp_transfer.strategies.base import trainable
from tests.encoder.families import tiny_encoder, tiny_tokenizer

TASK = Task("single_label", ("card", "film"), pair=False)
QUERY, OUTPUT = "attention.self.query", "attention.output.dense"


@pytest.mark.parametrize(
    ("layers", "targets", "places"),
    [
        (None, None, 12),
        ([1], None, 6),
        (None, ["query"], 2),
        ([1], ["query"], 1),
        ([1], [OUTPUT, "value"], 2),
        ([0, 1], ["dense"], 6),
        ([1], [f"encoder.encoder.layer.1.{QUERY}"], 1),
    ],
)
def test_lora_is_in_the_targets_of_the_layers(tmp_path: Path, layers, targets, places: int):
    classifier = load_classifier(EncoderSettings(name=str(tiny_encoder(tmp_path))), TASK, head="pooled", seed=0)
    Lora(rank=2, layers=layers, targets=targets).apply(classifier)
    found = [name for name in trainable(classifier) if ".lora_A." in name]
    assert len(found) == places
    assert layers is None or all(any(f".layer.{layer}." in name for layer in layers) for name in found)
    assert targets is None or all(any(f".{target}.lora_A." in name for target in targets) for name in found)


@pytest.mark.parametrize(("layers", "targets"), [([1], ["nothing"]), ([1], [f"layer.0.{QUERY}"])])
def test_layers_without_the_targets_are_refused(tmp_path: Path, layers, targets):
    classifier = load_classifier(EncoderSettings(name=str(tiny_encoder(tmp_path))), TASK, head="pooled", seed=0)
    with pytest.raises(UserError, match=r"strategy\.targets=.* match no linear layer in strategy\.layers=\[1\]"):
        Lora(rank=2, layers=layers, targets=targets).apply(classifier)


@pytest.mark.parametrize("peft", [None, {"lora_dropout": 0.1}])
def test_dropout_for_experts_in_one_tensor_is_refused(tmp_path: Path, peft):
    sizes = {"hidden_size": 32, "intermediate_size": 32, "moe_intermediate_size": 16, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "n_routed_experts": 4, "num_experts_per_tok": 2}
    sizes |= {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
    sizes |= {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "vocab_size": 500, "eos_token_id": 1}
    AutoModel.from_config(AutoConfig.for_model("deepseek_v3", **sizes)).save_pretrained(tmp_path)
    tiny_tokenizer("llama").save_pretrained(tmp_path)
    classifier = load_classifier(EncoderSettings(name=str(tmp_path)), TASK, head="native", seed=0)
    named = r"PEFT cannot put LORA on" if peft else r"strategy\.dropout=0\.05: .*; set strategy\.dropout=0$"
    with pytest.raises(UserError, match=named):
        Lora(rank=2, peft=peft).apply(classifier)
