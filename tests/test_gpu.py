"""Runs on a GPU: packed bfloat16 runs give the same bits twice and save what was measured."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nlp_transfer.running.run import adapt
from nlp_transfer.training import device
from tests.runs import data_for, settings_for

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

PACKED, FROZEN = "packed", "packed, 1 frozen layers run once"
# What a run is told, and what its plan says of padding.
STRATEGIES = {
    "finetune": ({"strategy": "finetune"}, PACKED),
    "autocast": ({"strategy": "finetune", "autocast": True}, PACKED),
    "padded": ({"strategy": "finetune", "encoder.packed": False}, "padded, as encoder.packed=false asks for"),
    "top layer": ({"strategy": "finetune", "strategy.freeze_layers": 1}, FROZEN),
    "lora": ({"strategy": "lora"}, PACKED),
    "probe": ({"strategy": "probe"}, PACKED),
    "fp32": (
        {"strategy": "finetune", "training.precision": "fp32"},
        "padded: faster on cuda through FlashAttention alone; encoder.packed=true tries it",
    ),
    "fp16": ({"strategy": "finetune", "training.precision": "fp16"}, PACKED),
    "checkpointing": ({"strategy": "finetune", "training.gradient_checkpointing": True}, PACKED),
}


@pytest.mark.parametrize(("words", "padding"), STRATEGIES.values(), ids=STRATEGIES)
def test_a_run_gives_the_same_bits_twice_and_saves_what_it_measured(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words, padding
):
    words = dict(words)
    if words.pop("autocast", False):
        monkeypatch.setattr(device, "why_not_in_bfloat16", lambda *_, autocast=False: None if autocast else "reasons")
    data, made = data_for("single_label"), []
    for again in ("one", "other"):
        values = {"training.precision": "bf16", "output": str(tmp_path / again)} | words
        run = adapt(settings_for(home, **values), data=data)
        made.append(load_file(run.folder / "model" / "model.safetensors"))  # of an adapter, too: it was merged
    assert all(torch.equal(weight, made[1][name]) for name, weight in made[0].items())
    assert json.loads((run.folder / "plan.json").read_text())["padding"] == padding
    labels = [found.label for found in run.predictor.predict([row["text"] for row in data["test"]])]
    right = np.mean([label == row["label"] for label, row in zip(labels, data["test"], strict=True)])
    assert run.metrics["accuracy"] == pytest.approx(right, abs=0.1)  # predicting may compute in another precision
