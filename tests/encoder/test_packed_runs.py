"""Runs without padding: the same training, passes cut by what they cost then, a plan that says so, refusals."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st

from nlp_transfer.cli import main
from nlp_transfer.data.batches import evaluation_batches, micro_batches
from nlp_transfer.data.corpus import load_corpus
from nlp_transfer.encoder import packed as packed_module
from nlp_transfer.encoder.anatomy import dissect
from nlp_transfer.encoder.classifier import load_classifier
from nlp_transfer.encoder.packed import pack, pack_if_wanted, unequal_rows
from nlp_transfer.errors import UserError
from nlp_transfer.running.preparation import prepare
from nlp_transfer.running.run import adapt
from nlp_transfer.settings import EncoderSettings
from nlp_transfer.training.passes import NoMemory, Passes
from tests.data.windows import examples_st, make_tokens
from tests.place import furnish
from tests.runs import data_for, settings_for
from tests.training.cut import parts
from tests.training.scarce import Scarce

from .conftest import TASK
from .families import tiny_encoder, tiny_tokenizer


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Tiny encoders without dropout, and a corpus in files."""
    folder = tmp_path_factory.mktemp("packed")
    furnish(folder)
    for family in ("bert", "deberta"):
        tiny_encoder(folder, family, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return folder


def of_run(home: Path, tmp_path: Path, **values):
    return settings_for(home, output=str(tmp_path), **{"encoder.head_dropout": 0.0, "training.epochs": 1, **values})


# A head that was solved would hang on the last bits of what a random encoder makes.
TRAINING = {"strategy": "finetune", "strategy.lr": 1e-3, "strategy.head_first": False, "evaluation.floors": False}


@pytest.mark.parametrize("problem", ["single_label", pytest.param("chunk", marks=pytest.mark.slow)])
def test_a_packed_training_is_the_padded_one(home: Path, tmp_path: Path, problem: str):
    cut = {"tokens.long": "chunk", "tokens.max_length": 24} if problem == "chunk" else {}
    texts, made = [row["text"] for row in data_for(problem)["test"]], []
    for packed in (True, False):
        values = TRAINING | cut | {"encoder.packed": packed}
        run = adapt(of_run(home, tmp_path / str(packed), **values), data=data_for(problem))
        made.append((run.metrics["log_loss"], run.predictor.logits(texts)))
    assert made[0][0] == pytest.approx(made[1][0], abs=1e-6)
    np.testing.assert_allclose(made[0][1], made[1][1], atol=1e-4)


def test_layers_run_again_for_memory_train_alike(home: Path, tmp_path: Path):
    losses = []
    for again in (True, False):
        values = TRAINING | {"encoder.packed": True, "training.gradient_checkpointing": again}
        run = adapt(of_run(home, tmp_path / str(again), **values), data=data_for("single_label"))
        losses.append(run.metrics["log_loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "packed"),
        ({"encoder.packed": True}, "packed"),
        ({"encoder.packed": False}, "padded, as encoder.packed=false asks for"),
        ({"encoder.attention": "eager"}, "padded: encoder.attention=eager is chosen explicitly"),
        ({"training.compile": True}, "padded: training.compile needs tensors of few shapes"),
        ({"family": "deberta"}, "padded: the layers of deberta do not run without padding (TypeError)"),
    ],
)
def test_the_plan_says_packed_or_why_not(home: Path, tmp_path: Path, values: dict, words: str):
    family = values.get("family", "bert")
    given = {"encoder.name": str(home / f"tiny-{family}")} | {k: v for k, v in values.items() if k != "family"}
    made = of_run(home, tmp_path, strategy="finetune", **given)
    prepared = prepare(made, load_corpus(made.data, seed=made.seed, data=data_for("single_label")), tmp_path)
    assert prepared.padding_words == words
    assert (prepared.padding.positions_per_token > 1) == (words == "packed")


@pytest.mark.parametrize(
    ("family", "word", "said"),
    [
        ("deberta", "encoder.attention=null", "the layers of deberta do not run without padding"),
        ("bert", "encoder.attention=eager", "encoder.attention=eager is chosen explicitly"),
        ("bert", "training.compile=true", "training.compile needs tensors of few shapes"),
    ],
)
def test_packing_that_is_demanded_and_cannot_be_is_refused(home: Path, tmp_path: Path, capfd, family, word, said):
    words = ["adapt", "data=files", f"data.path={home / 'data'}", "encoder=custom", "strategy=finetune", word]
    words += [f"encoder.name={home / f'tiny-{family}'}", f"output={tmp_path}", "encoder.packed=true"]
    assert main(words) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert f"encoder.packed=true: {said}" in " ".join(err.split())


def packed_parts(folder: Path, problem: str, examples: int):
    step, columns, padding = parts(folder, problem, examples)
    positions_per_token = pack(step.model, dissect(step.model, segments=True), tiny_tokenizer())
    return step, columns, dataclasses.replace(padding, positions_per_token=positions_per_token)


def gradient(passes: Passes, step: torch.nn.Module) -> tuple[float, torch.Tensor]:
    step.zero_grad()
    loss = passes.accumulate(np.arange(len(passes.columns)), 0.0, reseed=lambda: None)
    return loss, torch.cat([p.grad.flatten() for p in step.parameters() if p.grad is not None])


@pytest.mark.parametrize("problem", ["single_label", "chunk"])
def test_neither_cut_nor_padding_change_the_gradient(tmp_path: Path, problem: str):
    accelerator = Accelerator(cpu=True)
    padded, columns, padding = parts(tmp_path, problem, 9)
    wanted = gradient(Passes(accelerator, padded, columns, padding, None, 8192), padded)
    step, columns, padding = packed_parts(tmp_path, problem, 9)
    sizes = []
    for most in (1, 30, 8192):
        passes = Passes(accelerator, step, columns, padding, None, most)
        sizes.append(len(passes.cut(np.arange(9))))
        loss, found = gradient(passes, step)
        assert loss == pytest.approx(wanted[0], abs=1e-6)
        assert (found - wanted[1]).norm() < 1e-6 * wanted[1].norm()
    assert sizes[0] == 9 > sizes[1] > sizes[2] == 1


@pytest.mark.slow
def test_packed_passes_that_do_not_fit_are_halved(tmp_path: Path):
    step, columns, padding = packed_parts(tmp_path, "single_label", 6)
    accelerator, said = Accelerator(cpu=True), []
    loss, whole = gradient(Passes(accelerator, step, columns, padding, None, 8192), step)
    scarce = Scarce(step, 2)
    passes = Passes(accelerator, scarce, columns, padding, None, 8192, on_halved=said.append)
    again, halved = gradient(passes, step)
    assert again == pytest.approx(loss, abs=1e-6)
    assert (halved - whole).norm() < 1e-6 * whole.norm()
    assert scarce.failed >= 1
    assert said == [passes.halved_to]
    assert said[0] <= columns.tokens.sizes.sum() // 2
    with pytest.raises(NoMemory):
        gradient(Passes(accelerator, Scarce(step, 0), columns, padding, 2, 8192), step)


def places(tokens, batch: np.ndarray) -> int:
    return int(tokens.longest[batch].max() * tokens.windows[batch].sum())


@settings(max_examples=60)
@given(examples_st, st.integers(1, 200), st.integers(0, 60))
def test_packed_passes_hold_every_example_within_the_budget(windows, budget: int, cost: int):
    tokens = make_tokens(windows)
    everything = np.arange(len(windows))
    cut = micro_batches(
        tokens,
        everything,
        rank=0,
        world=1,
        most_examples=None,
        most_tokens=budget,
        pass_cost=cost,
        positions_per_token=8,
    )
    for batches in (cut, evaluation_batches(tokens, most_tokens=budget, positions_per_token=8)):
        assert sorted(np.concatenate(batches).tolist()) == everything.tolist()
        for batch in batches:
            real = int(tokens.sizes[batch].sum())
            assert real + (places(tokens, batch) - real) // 8 <= budget or len(batch) == 1


def test_one_long_text_among_many_short_ones_does_not_make_all_of_them_long():
    """The head is padded also where the layers are not: memory must not grow with rows times longest."""
    tokens = make_tokens([[512]] + [[5]] * 3000)
    evaluated = evaluation_batches(tokens, most_tokens=4096, positions_per_token=8)
    assert max(places(tokens, batch) for batch in evaluated) <= 8 * 4096
    assert len(evaluated) <= 5  # where nothing but tokens counts, four are the fewest
    options = {
        "rank": 0,
        "world": 1,
        "most_examples": None,
        "most_tokens": 4096,
        "pass_cost": 64,
        "positions_per_token": 8,
    }
    trained = micro_batches(tokens, np.arange(3001), **options)
    assert max(places(tokens, batch) for batch in trained) <= 8 * 4096
    assert len(trained) <= 5


def test_packing_where_it_is_not_known_to_be_faster_must_be_asked_for(home: Path, monkeypatch: pytest.MonkeyPatch):
    """As on a GPU whose FlashAttention cannot be had, here under the name of a device without memory."""
    encoder = EncoderSettings(name=str(home / "tiny-bert"))
    classifier = load_classifier(encoder, TASK, head="native", seed=0)
    model, anatomy, tokenizer = classifier.model, classifier.anatomy, classifier.tokenizer
    rows = unequal_rows(model, tokenizer)
    monkeypatch.setattr(packed_module, "unequal_rows", lambda *_: rows)
    monkeypatch.setattr(type(model), "device", torch.device("meta"))
    positions_per_token, words = pack_if_wanted(model, anatomy, tokenizer, encoder, half=True)
    assert positions_per_token == 1
    assert words == "padded: faster on meta through FlashAttention alone; encoder.packed=true tries it"
    asked = EncoderSettings(name=encoder.name, packed=True, attention="sdpa")
    with pytest.raises(UserError, match=r"encoder.packed=true: encoder.attention=sdpa"):
        pack_if_wanted(model, anatomy, tokenizer, asked, half=True)
    asked = EncoderSettings(name=encoder.name, packed=True)
    assert pack_if_wanted(model, anatomy, tokenizer, asked, half=True)[1] == "packed"
