"""Answers: rows that a model cannot answer are never measured, and a copy that answers faster answers the same."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from nlp_transfer.data.task import Task
from nlp_transfer.encoder.classifier import forward, load_classifier
from nlp_transfer.errors import UserError
from nlp_transfer.settings import EncoderSettings
from nlp_transfer.training import inference
from nlp_transfer.training.bfloat16 import in_bfloat16, is_in_bfloat16
from tests.encoder.families import TEXTS, tiny_encoder
from tests.training.cut import parts


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_answers_that_are_no_numbers_are_refused(tmp_path: Path, value: float):
    step, columns, padding = parts(tmp_path, "single_label", 6)
    rows = inference.run(Accelerator(cpu=True), step.model, columns, padding=padding, most_tokens=64)
    assert rows.shape == (6, 3)
    with torch.no_grad():
        next(p for name, p in step.model.named_parameters() if name.endswith("classifier.bias"))[1] = value
    with pytest.raises(UserError, match=r"infinite or not a number for 6 of 6 rows \(of these the 1\. first\)"):
        inference.run(Accelerator(cpu=True), step.model, columns, padding=padding, most_tokens=64)


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])  # with biases, without, and no linear layers at all
def test_a_copy_for_answers_answers_as_any_copy_in_bfloat16(tmp_path: Path, monkeypatch, family: str):
    task = Task("single_label", ("a", "b", "c"), pair=False)
    folder = tiny_encoder(tmp_path, family)
    made = load_classifier(EncoderSettings(name=str(folder)), task, head="native", seed=0)
    rows = made.tokenizer(TEXTS, padding=True, return_tensors="pt")
    before = {name: p.detach().clone() for name, p in made.model.named_parameters()}
    copies = {"plain": in_bfloat16(made.model, made.model), "ordered": inference.inference_copy(made.model)}
    monkeypatch.setattr(inference, "_can_reorder_weights", lambda: False)
    copies["elsewhere"] = inference.inference_copy(made.model)
    with torch.inference_mode():
        answers = {name: forward(model, rows).logits for name, model in copies.items()}
    for name in ("ordered", "elsewhere"):
        assert is_in_bfloat16(copies[name])
        torch.testing.assert_close(answers[name], answers["plain"], atol=1e-3, rtol=1e-2)
    monkeypatch.undo()
    layers = [m for m in copies["ordered"].modules() if type(m) is nn.Linear and m.weight.dtype == torch.bfloat16]
    assert bool(layers) == (family != "gpt2")
    assert all(("forward" in vars(layer)) == inference._can_reorder_weights() for layer in layers)
    assert all(torch.equal(before[name], p) for name, p in made.model.named_parameters())


def test_whoever_watches_is_told_of_every_row_once(tmp_path: Path, monkeypatch):
    step, columns, padding = parts(tmp_path, "single_label", 6)
    asked = {"padding": padding, "most_tokens": 24}
    told: list[tuple[int, int]] = []
    with inference.reporting_progress(lambda done, total: told.append((done, total))):
        watched = inference.run(Accelerator(cpu=True), step.model, columns, **asked)
    assert len(told) > 1
    assert [total for _, total in told] == [6] * len(told)
    assert sorted({done for done, _ in told}) == [done for done, _ in told]
    assert told[-1] == (6, 6)
    alone = inference.run(Accelerator(cpu=True), step.model, columns, **asked)
    assert (watched == alone).all()
    assert told[-1] == (6, 6)
