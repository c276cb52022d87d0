"""Hidden states of frozen layers, computed once: the training ends where it would have ended without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from nlp_transfer.data.corpus import load_corpus
from nlp_transfer.running.preparation import prepare
from nlp_transfer.running.run import adapt
from tests.cells import cells
from tests.encoder.families import tiny_encoder
from tests.runs import data_for, settings_for

pytestmark = pytest.mark.slow

PACKED = ("bert", "roberta", "distilbert", "electra", "modernbert", "gpt2", "qwen3", "gemma3_text", "nomic_bert")
FREEZING = {
    "finetune": {"strategy": "finetune", "strategy.freeze_layers": 1},
    "lora": {"strategy": "lora", "strategy.layers": [1]},
}


def calls_of(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the forward passes through linear layers."""
    calls = [0]
    plain = nn.Linear.forward

    def counted(layer, values):
        calls[0] += 1
        return plain(layer, values)

    monkeypatch.setattr(nn.Linear, "forward", counted)
    return calls


# Each is much like one of the others: RoBERTa and ELECTRA like BERT, Gemma like Qwen.
ALIKE = ("roberta", "electra", "gemma3_text")


@pytest.mark.parametrize(
    ("family", "strategy"),
    [
        *cells([family for family in PACKED if family not in ALIKE], list(FREEZING)),
        *(pytest.param(family, each, marks=pytest.mark.exhaustive) for family in ALIKE for each in FREEZING),
    ],
)
def test_the_weights_are_those_of_a_training_that_runs_every_layer(tmp_path: Path, family: str, strategy: str):
    tiny_encoder(tmp_path, family)
    weights = []
    for once in (False, True):
        values = FREEZING[strategy] | {
            "encoder.name": str(tmp_path / f"tiny-{family}"),
            "training.precision": "fp32",
            "evaluation.floors": False,
            "output": str(tmp_path / str(once)),
        }
        with pytest.MonkeyPatch.context() as patch:
            if not once:
                patch.setattr("nlp_transfer.running.preparation.boundary_of", lambda *_: None)
            run = adapt(settings_for(tmp_path, **values), data=data_for("single_label"))
        weights.append(load_file(run.folder / "model" / "model.safetensors"))
    start = load_file(tmp_path / f"tiny-{family}" / "model.safetensors")
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-4, atol=1e-5, msg=name)
    moved = [
        n
        for n, t in weights[1].items()
        if n.partition(".")[2] in start and not torch.equal(t, start[n.partition(".")[2]])
    ]
    assert moved, "something of the encoder learned"


def test_a_second_run_reads_what_the_first_has_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tiny_encoder(tmp_path)
    calls = calls_of(monkeypatch)
    counts = []
    for seed in (0, 1):
        values = FREEZING["finetune"] | {
            "seed": seed,
            "strategy.head_first": False,
            "output": str(tmp_path / str(seed)),
        }
        before = calls[0]
        adapt(settings_for(tmp_path, **values), data=data_for("single_label"))
        counts.append(calls[0] - before)
    assert counts[1] < counts[0]


@pytest.mark.parametrize(
    ("family", "values", "usable"),
    [
        ("bert", {}, True),
        ("t5", {"encoder.head": "pooled"}, False),  # its first layer makes the positions of all
        ("bert", {"encoder.head": "pooled", "encoder.layers": [1, 2]}, False),  # the head reads a frozen layer
        ("bert", {"encoder.packed": False}, False),
        ("bert", {"cache.gib": 0}, True),  # what is kept must not decide how a run computes
        ("bert", {"training.max_steps": 1, "training.min_steps": 1}, False),  # most rows are not read
        ("deberta", {}, False),
        ("bert", {"strategy": "lora", "strategy.layers": [1]}, True),
        ("bert", {"strategy": "lora", "strategy.layers": [1], "strategy.peft": {"bias": "all"}}, False),  # they learn
    ],
)
def test_where_it_cannot_be_used_the_layers_run(tmp_path: Path, family: str, values: dict, usable: bool):
    tiny_encoder(tmp_path, family)
    name = {"encoder.name": str(tmp_path / f"tiny-{family}")}
    given = name | values if "strategy" in values else FREEZING["finetune"] | name | values
    settings = settings_for(tmp_path, **given)
    corpus = load_corpus(settings.data, seed=0, data=data_for("single_label"))
    assert (prepare(settings, corpus, tmp_path).boundary is not None) is usable
