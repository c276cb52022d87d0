"""The contrastive term: hand-computed values, invariances, batches, and refused settings."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from nlp_transfer.data.batches import Order
from nlp_transfer.data.corpus import load_corpus
from nlp_transfer.data.task import Task
from nlp_transfer.encoder.classifier import Outputs
from nlp_transfer.errors import UserError
from nlp_transfer.linear.convex import Head
from nlp_transfer.objectives.contrast import Contrast
from nlp_transfer.objectives.settings import ContrastSettings
from nlp_transfer.running import learning
from nlp_transfer.running.head import cross_validate, refit_head
from nlp_transfer.running.preparation import prepare
from nlp_transfer.running.prepared import Prepared
from nlp_transfer.running.run import adapt
from tests.cells import cells
from tests.runs import STRATEGIES, data_for, settings_for
from tests.stopped import weights_of_a_stopped_run_and_another

pytestmark = pytest.mark.slow

KINDS = ("pairs", "supcon")
CONTRAST = {"objective": "contrast", "strategy.head_last": True}


def losses(features, targets, weights=None, **knobs) -> torch.Tensor:
    term = Contrast(ContrastSettings(**knobs), Task("single_label", ("a", "b", "c"), False, None))
    features = torch.as_tensor(features, dtype=torch.float32)
    weights = torch.ones(len(features)) if weights is None else torch.as_tensor(weights)
    return term(Outputs(features, features), {"targets": torch.as_tensor(targets), "weights": weights}, 0.0)


def test_pairs_by_hand():
    # Cosines: 0.8 between the first two, of one label; 0.6 and 0 between these and the third.
    ours = losses([[1.0, 0.0], [0.8, 0.6], [0.0, 2.0]], [0, 0, 1])
    expected = [(0.2**2 + 0) / 2, (0.2**2 + 0.6**2) / 2, (0 + (0**2 + 0.6**2) / 2) / 2]
    assert ours.tolist() == pytest.approx(expected, abs=1e-6)


def test_supcon_by_hand():
    ours = losses([[1.0, 0.0], [0.8, 0.6], [0.0, 2.0]], [0, 0, 1], kind="supcon", temperature=0.5)
    expected = [
        math.log(math.exp(1.6) + math.exp(0.0)) - 1.6,
        math.log(math.exp(1.6) + math.exp(1.2)) - 1.6,
        0.0,  # no other of its label
    ]
    assert ours.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 99), examples=st.integers(1, 9))
def test_neither_order_nor_length_of_vectors_matters_and_soft_labels_that_are_sure_are_hard(kind, seed, examples):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(examples, 5, generator=generator)
    targets = torch.randint(0, 3, (examples,), generator=generator)
    ours = losses(features, targets, kind=kind)
    order = torch.randperm(examples, generator=generator)
    scale = torch.rand(examples, 1, generator=generator) + 0.5
    torch.testing.assert_close(losses(features[order] * scale[order], targets[order], kind=kind), ours[order])
    torch.testing.assert_close(losses(features, torch.eye(3)[targets], kind=kind), ours)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_weight_zero_changes_nothing_and_one_of_weight_two_counts_as_two(kind: str):
    torch.manual_seed(1)
    features, targets = torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 2, 1])
    weights = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    torch.testing.assert_close(
        losses(features, targets, weights, kind=kind)[:5], losses(features[:5], targets[:5], kind=kind)
    )
    twice = torch.tensor([0, 1, 2, 3, 3])
    torch.testing.assert_close(
        losses(features[:4], targets[:4], torch.tensor([1.0, 1.0, 1.0, 2.0]), kind=kind)[:3],
        losses(features[twice], targets[twice], kind=kind)[:3],
    )


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_does_not_change_the_cosines(kind: str):
    features, targets = torch.randn(8, 384) + 5 * torch.randn(384), torch.arange(8) % 2
    with torch.autocast("cpu", torch.bfloat16):
        narrow = losses(features, targets, kind=kind)
    assert torch.equal(narrow, losses(features, targets, kind=kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("targets", [[0], [0, 1, 2], [1, 1, 1]], ids=["alone", "all different", "all alike"])
def test_without_pairs_the_gradient_is_finite(kind: str, targets: list[int]):
    features = torch.randn(len(targets), 4, requires_grad=True)
    losses(features, targets, kind=kind).sum().backward()
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_steps_against_the_gradient_draw_labels_together(kind: str):
    torch.manual_seed(0)
    features, targets = torch.randn(12, 6, requires_grad=True), torch.arange(12) % 3
    optimizer = torch.optim.SGD([features], lr=1.0)
    for _ in range(200):
        optimizer.zero_grad()
        losses(features, targets, kind=kind).sum().backward()
        optimizer.step()
    vectors = torch.nn.functional.normalize(features.detach(), dim=-1)
    same = targets[:, None] == targets
    cosines = vectors @ vectors.T
    assert cosines[same].min() > cosines[~same].max() + 0.5


@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=60),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 2),
)
def test_an_epoch_of_many_kinds_holds_every_example_once_and_fours_of_a_kind(labels, seed, epoch):
    kinds = np.array([*labels, *range(6, 12)])
    order = Order(len(kinds), batch_size=8, seed=seed, groups=kinds).epoch(epoch)
    assert sorted(order.tolist()) == list(range(len(kinds)))
    starts = np.flatnonzero(np.diff(kinds[order], prepend=-1))
    runs = np.diff([*starts, len(kinds)])
    assert all(sum(kinds[order][starts][runs % 4 != 0] == kind) <= 1 for kind in set(kinds.tolist()))


def test_orders_of_kinds_differ_by_seed_and_epoch_and_mix_the_kinds():
    kinds = np.repeat(np.arange(10), 20)
    orders = [Order(200, batch_size=16, seed=seed, groups=kinds).epoch(epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({order.tobytes() for order in orders}) == 4
    assert len(set(kinds[orders[0][:40]])) > 3


@pytest.mark.parametrize(("kinds", "batch"), [(2, 16), (2, 4), (6, 16), (77, 16), (77, 4), (20, 8)])
def test_nearly_every_step_has_texts_of_one_label_and_of_others(kinds: int, batch: int):
    labels = np.repeat(np.arange(kinds), 8)
    order = Order(len(labels), batch_size=batch, seed=0, groups=labels)
    counts = [np.unique(labels[order.step(step)], return_counts=True)[1] for step in range(200)]
    counts = [count for count in counts if count.sum() == batch]
    assert np.mean([len(count) > 1 for count in counts]) > 0.9
    assert np.mean([count.max() > 1 for count in counts]) > 0.9


@pytest.mark.parametrize(
    ("strategy", "problem"), cells(("finetune", "lora", "ia3"), ("single_label", "soft", "pair", "siamese", "chunk"))
)
def test_a_run_ends_with_a_head_that_fits_the_encoder_it_trained(
    home: Path, tmp_path: Path, strategy: str, problem: str
):
    # As it was fitted: a temperature moves the chances off what fits the training rows.
    values = STRATEGIES[strategy] | CONTRAST | {"evaluation.floors": False, "decision.calibrate": False}
    run = adapt(settings_for(home, problem, output=str(tmp_path), **values), data=data_for(problem))
    rows = data_for(problem)["train"]
    pairs = [row["text_pair"] for row in rows] if problem in ("pair", "siamese") else None
    chances = softmax(run.predictor.logits([row["text"] for row in rows], pairs), axis=1)
    given = [row["label"] if problem == "soft" else {row["label"]: 1.0} for row in rows]
    labels = sorted({label for shares in given for label in shares})
    # Where the loss is least, its slope by the bias is zero: labels are as likely, on the whole, as they are frequent.
    shares = [np.mean([each.get(label, 0.0) for each in given]) for label in labels]
    assert chances.mean(0) == pytest.approx(shares, abs=0.01)


@pytest.mark.parametrize("first", [True, False])
def test_the_last_head_has_the_penalty_that_suited_the_encoder_before_it_knew_the_rows(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
):
    values = {"strategy": "finetune", "strategy.head_first": first, "evaluation.floors": False} | CONTRAST
    settings = settings_for(home, "single_label", output=str(tmp_path), **values)
    data = data_for("single_label")
    prepared = prepare(settings, load_corpus(settings.data, seed=0, data=data), tmp_path)
    before = cross_validate(prepared, prepared.features("train")).penalty
    seen = []

    def watched(prepared: Prepared, *, least: float) -> Head:
        seen.append(least)
        return refit_head(prepared, least=least)

    monkeypatch.setattr(learning, "refit_head", watched)
    adapt(settings, data=data)
    assert seen == [before]
    heads = [refit_head(prepared, least=least) for least in (0, 3, 1e3)]
    assert heads[0].penalty < heads[1].penalty == 3
    assert heads[2].penalty == 10  # however little the features told before
    assert np.linalg.norm(heads[1].weight) < np.linalg.norm(heads[0].weight)


@pytest.mark.parametrize(
    ("problem", "left_out", "expected"),
    [
        ("single_label", {"film"}, [10, 10, 100]),
        ("ordinal", {"3"}, [10, 10, 100]),
        ("ordinal", set(), [0.625, 3, 10]),
        ("multi_label", {"film", "refund"}, [0, 3, 10]),  # two labels, and a text has none, one or both
    ],
)
def test_the_minimum_penalty_of_the_last_head_falls_with_the_number_of_classes(
    home: Path, tmp_path: Path, problem: str, left_out: set[str], expected: list[float]
):
    settings = settings_for(home, problem, **{"strategy": "finetune", "strategy.head_last": True})
    data = {
        split: [row for row in rows if not left_out.intersection(np.ravel(row["label"]))]
        for split, rows in data_for(problem).items()
    }
    prepared = prepare(settings, load_corpus(settings.data, seed=0, data=data), tmp_path)
    alone = cross_validate(prepared, prepared.current_features("train")).penalty
    found = [refit_head(prepared, least=least).penalty for least in (0, 3, 100)]
    assert found == [max(each, alone) for each in expected]


def test_label_texts_do_not_influence_the_penalty(home: Path, tmp_path: Path):
    values = {"strategy": "finetune", "data.label_texts": ["{}", "{}.", "It is {}."]} | CONTRAST
    settings = settings_for(home, "single_label", output=str(tmp_path), **values)
    corpus = load_corpus(settings.data, seed=0, data=data_for("single_label"))
    own, alone = len(corpus.splits["train"]), dataclasses.replace(settings.data, label_texts=None)
    with_names, without = (
        prepare(dataclasses.replace(settings, data=data), corpus, tmp_path) for data in (settings.data, alone)
    )
    targets = with_names.corpus.splits["train"].targets
    features = np.random.default_rng(0).normal(size=(len(targets), 8)).astype(np.float32)
    features[own:] += 9 * np.eye(8, dtype=np.float32)[targets[own:]]  # names are told from each other, texts are not
    found, expected = cross_validate(with_names, features), cross_validate(without, features[:own])
    assert len(targets) > own
    assert found.penalty == expected.penalty
    np.testing.assert_allclose(found.held_out[:own], expected.held_out, rtol=1e-5)
    assert not found.held_out[own:].any()
    weight = found.fit().weight
    assert (features[own:] @ weight.T).argmax(1).tolist() == targets[own:].tolist()  # but the layer has learned them
    assert np.linalg.norm(weight) > np.linalg.norm(expected.fit().weight)


def test_a_stopped_run_resumes_to_the_same_bits(tmp_path: Path):
    resumed, plain = weights_of_a_stopped_run_and_another(tmp_path, strategy="finetune", **CONTRAST)
    assert resumed == plain


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"strategy": "probe"}, "strategy=probe freezes"),
        ({"strategy": "finetune", "objective.classify.weight": 0}, "no step would teach the head"),
        ({"strategy": "finetune", "strategy.head_last": True, "objective.classify.weight": 0}, "training.keep=last"),
        ({"strategy": "finetune", "objective.classify.weight": 0, "objective.contrast.weight": 0}, "nothing to learn"),
        ({"strategy": "finetune", "training.batch_size": 2}, "at least 4 for objective.contrast"),
        ({"strategy": "finetune", "objective.contrast.kind": "triplet"}, r"objective\.contrast\.kind"),
        ({"strategy": "finetune", "objective.contrast.temperature": 0}, r"temperature=0"),
    ],
    ids=["probe", "no head", "best", "nothing", "batch", "kind", "temperature"],
)
def test_impossible_settings_are_refused(home: Path, tmp_path: Path, values: dict, words: str):
    reference = {"objective": "contrast"} | values
    with pytest.raises(UserError, match=words):
        adapt(settings_for(home, output=str(tmp_path), **reference), data=data_for("single_label"))


@pytest.mark.parametrize("problem", ["multi_label", "regression", "ordinal"])
def test_problems_without_one_label_a_text_are_refused(home: Path, tmp_path: Path, problem: str):
    settings = settings_for(home, problem, output=str(tmp_path), strategy="finetune", **CONTRAST)
    with pytest.raises(UserError, match=f"problem type {problem} is of another kind"):
        adapt(settings, data=data_for(problem))
