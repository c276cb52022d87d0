"""Rows too long for matrix products over all scores take torch's kernel, and answer and learn as padded ones do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nlp_transfer.data.task import Task
from nlp_transfer.encoder import attention
from nlp_transfer.encoder.classifier import forward, load_classifier
from nlp_transfer.encoder.packed import pack
from nlp_transfer.settings import EncoderSettings
from tests.encoder.families import tiny_encoder

LENGTHS = (5, 600, 560, 40)


@pytest.mark.parametrize("family", ["bert", "modernbert", "llama"])
def test_long_rows_beside_short_ones(tmp_path: Path, family: str):
    folder = tiny_encoder(tmp_path, family, max_position_embeddings=700)
    task = Task("single_label", ("a", "b", "c"), pair=False)
    assert min(LENGTHS) < attention.WIDEST < max(LENGTHS)
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    batch = {"input_ids": torch.randint(10, 100, mask.shape), "attention_mask": mask}
    logits, gradients = [], []
    for packed in (False, True):
        made = load_classifier(EncoderSettings(name=str(folder)), task, head="pooled", seed=0)
        if packed:
            pack(made.model, made.anatomy, made.tokenizer)
        for name, parameter in made.model.named_parameters():
            if any(part in name for part in ("query", "key", "Wqkv", "q_proj", "k_proj")):
                parameter.data.mul_(8)  # or attention would hardly matter
        out = forward(made.model, batch).logits
        (out**2).sum().backward()
        logits.append(out.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in made.model.parameters() if p.grad is not None]))
    assert (logits[0] - logits[1]).norm() < 1e-5 * logits[0].norm()
    assert (gradients[0] - gradients[1]).norm() < 1e-4 * gradients[0].norm()
