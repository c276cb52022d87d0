"""Training the occurring word embeddings alone ends where training the whole table does."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from nlp_transfer.data.task import Task
from nlp_transfer.encoder.classifier import forward, load_classifier
from nlp_transfer.encoder.vocabulary import occurring_words
from nlp_transfer.settings import EncoderSettings
from tests.encoder.families import TEXTS, tiny_encoder

TASK = Task("single_label", ("a", "b", "c"), pair=False)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory):
    folder = tiny_encoder(tmp_path_factory.mktemp("encoder"))
    return load_classifier(EncoderSettings(name=str(folder)), TASK, head="pooled", seed=0)


def batch_of(classifier) -> dict[str, torch.Tensor]:
    rows = classifier.tokenizer(TEXTS, padding=True, return_tensors="pt")
    return {name: rows[name] for name in ("input_ids", "attention_mask")}


def trained(model, batch, steps: int = 5) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        (forward(model, batch).logits ** 2).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def test_the_whole_table_ends_as_if_it_had_been_trained(classifier):
    batch = batch_of(classifier)
    words = np.unique(batch["input_ids"])
    whole, part = copy.deepcopy(classifier.model), copy.deepcopy(classifier.model)
    before = part.get_input_embeddings().weight
    start = before.detach().clone()
    trained(whole, batch)
    with occurring_words(part, words):
        assert len(part.get_input_embeddings().weight) == len(words) + 1
        trained(part, batch)
    assert part.get_input_embeddings().weight is before
    for (name, one), (_, other) in zip(whole.named_parameters(), part.named_parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6, msg=name)
    unseen = sorted(set(range(len(start))) - set(words.tolist()))
    assert (before[unseen] - start[unseen]).abs().max() > 1e-4, "what does not occur decays"


def test_logits_are_the_same_inside_and_after(classifier):
    batch, model = batch_of(classifier), copy.deepcopy(classifier.model)
    with torch.inference_mode():
        wanted = forward(model, batch).logits
        with occurring_words(model, np.unique(batch["input_ids"])):
            assert torch.equal(forward(model, batch).logits, wanted)
        assert torch.equal(forward(model, batch).logits, wanted)


def test_a_word_that_was_not_announced_is_an_error_and_the_table_comes_back(classifier):
    batch, model = batch_of(classifier), copy.deepcopy(classifier.model)
    rows = len(model.get_input_embeddings().weight)
    with pytest.raises(IndexError), occurring_words(model, np.unique(batch["input_ids"])[:-1]):
        forward(model, batch)
    assert len(model.get_input_embeddings().weight) == rows
    assert torch.equal(forward(model, batch).logits, forward(classifier.model, batch).logits)


def test_words_beyond_the_table_are_no_matter(classifier):
    batch, model = batch_of(classifier), copy.deepcopy(classifier.model)
    size = model.get_input_embeddings().num_embeddings
    wanted = forward(model, batch).logits
    with occurring_words(model, np.array([*np.unique(batch["input_ids"]), size, size + 7])):
        assert torch.equal(forward(model, batch).logits, wanted)


def frozen(model) -> None:
    model.get_input_embeddings().weight.requires_grad_(False)


def tied(model) -> None:
    model.other = torch.nn.Linear(32, len(model.get_input_embeddings().weight), bias=False)
    model.other.weight = model.get_input_embeddings().weight


def normed(model) -> None:
    model.get_input_embeddings().max_norm = 1.0


@pytest.mark.parametrize("change", [frozen, tied, normed])
def test_tables_that_are_used_otherwise_stay_whole(classifier, change):
    model = copy.deepcopy(classifier.model)
    change(model)
    rows = len(model.get_input_embeddings().weight)
    with occurring_words(model, np.arange(4)):
        assert len(model.get_input_embeddings().weight) == rows


def test_where_nearly_all_occurs_nothing_is_done(classifier):
    model = copy.deepcopy(classifier.model)
    rows = len(model.get_input_embeddings().weight)
    with occurring_words(model, np.arange(rows - 2)):
        assert len(model.get_input_embeddings().weight) == rows


@pytest.mark.parametrize("family", ["roberta", "electra", "distilbert", "gpt2", "albert"])
def test_every_family_computes_the_same(tmp_path: Path, family: str):
    made = load_classifier(EncoderSettings(name=str(tiny_encoder(tmp_path, family))), TASK, head="native", seed=0)
    batch = batch_of(made)
    words = np.unique([*np.unique(batch["input_ids"]), made.tokenizer.pad_token_id])
    wanted = forward(made.model, batch).logits
    with occurring_words(made.model, words):
        assert torch.equal(forward(made.model, batch).logits, wanted)
