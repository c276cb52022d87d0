"""Domain adaptation terms: hand-computed values, invariances, and their effect."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from nlp_transfer.data.task import Task
from nlp_transfer.encoder.classifier import Outputs
from nlp_transfer.errors import UserError
from nlp_transfer.objectives.adversarial import reversed_gradient
from nlp_transfer.objectives.domains import strength
from nlp_transfer.objectives.objective import TERMS
from nlp_transfer.objectives.settings import TERM_SETTINGS

PASSES = ("coral", "mmd", "mcc")  # which see a pass as a whole
TERMS_OF_DOMAINS = (*PASSES, "dann", "cdan")
LABELS = ("a", "b", "c")


def term_of(name: str, *, width: int, labels: tuple[str, ...] = LABELS, problem: str = "single_label", **knobs):
    settings = TERM_SETTINGS[name](**knobs)
    term = TERMS[settings.name](settings, Task(problem, labels, False, None))
    if hasattr(term, "setup"):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            term.setup(width)
    return term


def batch_of(source: Tensor, target: Tensor, weights: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """Examples of both domains as they stand in a pass: a label counts twice."""
    labelled = torch.tensor([2.0] * len(source) + [0.0] * len(target))
    return torch.cat([source, target]), {
        "labelled": labelled,
        "weights": torch.ones(len(labelled)) if weights is None else weights,
    }


def value(name: str, source, target, weights=None, progress: float = 1.0, **knobs) -> Tensor:
    """The losses of examples whose features are their logits as well."""
    source, target = torch.as_tensor(source), torch.as_tensor(target)
    features, batch = batch_of(source, target, weights)
    labels = tuple(map(str, range(features.shape[1])))
    return term_of(name, width=features.shape[1], labels=labels, **knobs)(Outputs(features, features), batch, progress)


def drawn(seed: int, *sizes: int, width: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, width, generator=generator) + number for number, size in enumerate(sizes)]


def test_coral_by_hand():
    # Variances 2 and 8; then covariances 2 and -2 beside equal variances.
    assert value("coral", [[0.0], [2.0]], [[0.0], [4.0]]).tolist() == pytest.approx([(2 - 8) ** 2 / 4] * 4)
    apart = value("coral", [[0.0, 0.0], [2.0, 2.0]], [[0.0, 0.0], [2.0, -2.0]])
    assert apart.tolist() == pytest.approx([2 * 4**2 / (4 * 2**2)] * 4)


def test_mmd_by_hand():
    # Half of all pairs lie a distance of 1 apart: the mean squared distance is 1/2.
    across = sum(math.exp(-2 / width) for width in (0.25, 0.5, 1, 2, 4)) / 5
    assert value("mmd", [[0.0], [0.0]], [[1.0], [1.0]]).tolist() == pytest.approx([2 - 2 * across] * 4)


def test_mcc_by_hand():
    # Probabilities (3/4, 1/4) and (1/4, 3/4) at the temperature, equally sure: 3/8 of either class is confused.
    sharp = 2.5 * math.log(3)
    equal = [[sharp, 0.0], [0.0, sharp]]
    half = math.log(3) / 10  # where 2 / (1 + 1/3) - 1 of the weight counts
    assert value("mcc", [[9.0, 0.0]], equal, progress=half).tolist() == pytest.approx([0.1875] * 3)
    assert (value("mcc", [[9.0, 0.0]], equal, progress=0) == 0).all()
    # (1, 0), which counts 2, and (1/2, 1/2), which counts 3/2: confusions ((2 + 3/8, 3/8), (3/8, 3/8)).
    expected = (0.375 / 2.75 + 0.375 / 0.75) / 2
    assert value("mcc", [[9.0, 0.0]], [[999.0, 0.0], [0.0, 0.0]]).tolist() == pytest.approx([expected] * 3, rel=1e-4)


@pytest.mark.parametrize(("name", "logits", "counts"), [("dann", 0.0, 1), ("cdan", 0.0, 1.5), ("cdan", 99.0, 2)])
def test_the_discriminator_s_loss_by_hand(name: str, logits: float, counts: float):
    term = term_of(name, width=2, labels=("a", "b"))
    with torch.no_grad():
        term.discriminator[2].weight.zero_()
        term.discriminator[2].bias.fill_(math.log(3))  # a source text with a probability of 3/4, whatever it is
    features, batch = batch_of(torch.randn(2, 2), torch.randn(1, 2))
    given_logits = torch.tensor([[logits, 0.0]]).expand(3, 2)
    losses = term(Outputs(given_logits, features), batch, 0.5)
    expected = [-math.log(0.75)] * 2 + [-math.log(0.25)]
    assert losses.tolist() == pytest.approx([counts * loss for loss in expected])


def test_cdan_reads_the_outer_product_or_what_keeps_its_products():
    features, chances = torch.randn(2, 3), torch.tensor([[0.2, 0.8], [0.5, 0.5]])
    joint = term_of("cdan", width=3, labels=("a", "b")).joint(features, chances)
    assert joint.tolist() == [
        pytest.approx((c[:, None] * f).flatten().tolist()) for c, f in zip(chances, features, strict=True)
    ]
    wide = term_of("cdan", width=2000)
    assert wide.discriminator[0].in_features == 1024
    assert not wide.state_dict().keys() & {"of_features", "of_classes"}
    features, chances = torch.randn(2, 2000), torch.eye(3)[:2]
    same, other = wide.joint(features, chances) @ wide.joint(features[:1], chances[:1]).T
    assert float(same) == pytest.approx(float(features[0] @ features[0]), rel=0.3)
    assert abs(float(other)) < 0.3 * float(same)


def test_the_weight_of_the_other_domain_rises_from_zero_to_one():
    assert strength(0) == 0
    assert strength(1) == pytest.approx(1, abs=1e-4)
    assert strength(0.1) == pytest.approx((math.e - 1) / (math.e + 1))
    values = torch.randn(3, requires_grad=True)
    turned = reversed_gradient(values, 0.25)
    assert torch.equal(turned, values)
    turned.backward(torch.tensor([4.0, 0.0, -8.0]))
    assert values.grad.tolist() == [-1.0, 0.0, 2.0]


@pytest.mark.parametrize("name", ["dann", "cdan"])
def test_encoder_and_discriminator_have_opposite_gradients(name: str):
    source, target = drawn(0, 4, 4)
    features, batch = batch_of(source, target)
    features.requires_grad_()
    term = term_of(name, width=3)
    logits = torch.randn(8, 3, requires_grad=True)
    term(Outputs(logits, features), batch, 0.3).sum().backward()
    backwards, own = features.grad.clone(), [p.grad.clone() for p in term.parameters()]
    assert logits.grad is None  # the classes are no way out
    features.grad = None
    term.zero_grad()
    plain = term.losses(features, logits, (batch["labelled"] > 0).float())
    plain.sum().backward()
    torch.testing.assert_close(backwards, -strength(0.3) * features.grad)
    assert all(map(torch.allclose, own, [p.grad for p in term.parameters()]))


@pytest.mark.parametrize("name", ["coral", "mmd"])
@given(seed=st.integers(0, 99), count=st.integers(2, 6), shift=st.floats(-3, 3), factor=st.floats(0.2, 5))
def test_the_loss_is_zero_for_equal_domains_and_positive_for_others(
    name: str, seed: int, count: int, shift: float, factor: float
):
    source, target = drawn(seed, count, count + 1)
    assert value(name, source, source) == pytest.approx(0, abs=1e-6)
    apart = value(name, source, target)
    assert (apart >= 0).all()
    torch.testing.assert_close(value(name, target, source)[0], apart[0], rtol=1e-3, atol=1e-6)
    moved = value(name, factor * (source + shift), factor * (target + shift))
    scale = factor**4 if name == "coral" else 1
    torch.testing.assert_close(moved, scale * apart, rtol=1e-2, atol=1e-4 * scale)


@pytest.mark.parametrize("name", TERMS_OF_DOMAINS)
@given(seed=st.integers(0, 99), counts=st.tuples(st.integers(2, 5), st.integers(2, 5)))
def test_neither_the_order_of_rows_nor_rows_that_weigh_nothing_matter(name: str, seed: int, counts: tuple[int, int]):
    source, target = drawn(seed, *counts)
    generator = torch.Generator().manual_seed(seed)
    features, batch = batch_of(source, target, torch.rand(sum(counts), generator=generator) + 0.5)
    term = term_of(name, width=3).requires_grad_(False)
    ours = term(Outputs(features, features), batch, 0.5)
    order = torch.randperm(len(features), generator=generator)
    mixed = {key: values[order] for key, values in batch.items()}
    torch.testing.assert_close(term(Outputs(features[order], features[order]), mixed, 0.5), ours[order])
    more = torch.cat([features, 9 * torch.randn(2, 3, generator=generator)])
    padded = {"weights": torch.tensor([0.0, 0.0]), "labelled": torch.tensor([2.0, 0.0])}
    longer = {key: torch.cat([values, padded[key]]) for key, values in batch.items()}
    torch.testing.assert_close(
        term(Outputs(more, more), longer, 0.5)[:-2], ours, rtol=1e-4, atol=1e-5 * float(ours.abs().max())
    )


def test_a_text_of_weight_two_equals_two_texts():
    source, target = drawn(3, 3, 4)
    twice = torch.cat([source, source[:1]])
    weights = torch.tensor([2.0] + [1.0] * 6)
    torch.testing.assert_close(value("mmd", source, target, weights)[0], value("mmd", twice, target)[0])
    torch.testing.assert_close(
        value("mcc", target, source, weights[[1, 2, 3, 4, 0, 5, 6]])[0], value("mcc", target, twice)[0]
    )


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("counts", [(0, 3), (1, 3), (3, 1), (3, 0), (1, 0), (0, 1), (1, 1)])
def test_with_fewer_than_two_texts_loss_and_gradient_are_zero(name: str, counts: tuple[int, int]):
    source, target = drawn(1, *counts)
    features, batch = batch_of(source, target)
    features.requires_grad_()
    losses = term_of(name, width=3)(Outputs(features, features), batch, 0.5)
    losses.sum().backward()
    alone = min(counts) < 2 if name != "mcc" else counts[1] < 2
    assert (losses == 0).all() == alone
    assert features.grad.isfinite().all()
    assert (features.grad == 0).all() == alone
    batch["weights"] = torch.zeros(len(features))  # as where a rank has no text of a step
    assert (term_of(name, width=3)(Outputs(features, features), batch, 0.5) == 0).all()


@pytest.mark.parametrize("name", ["dann", "cdan"])
def test_the_discriminator_s_loss_does_not_hang_on_how_a_step_is_divided(name: str):
    source, target = drawn(2, 5, 5)
    features, batch = batch_of(source, target)
    term = term_of(name, width=3)
    whole = term(Outputs(features, features), batch, 0.5)
    parts = torch.tensor_split(torch.tensor([3, 8, 0, 9, 1, 2, 4, 7, 5, 6]), [1, 4])
    for part in parts:
        some = {key: values[part] for key, values in batch.items()}
        torch.testing.assert_close(term(Outputs(features[part], features[part]), some, 0.5), whole[part])


@pytest.mark.parametrize("name", TERMS_OF_DOMAINS)
def test_autocast_does_not_change_the_loss(name: str):
    features, batch = batch_of(*(5 + values for values in drawn(0, 4, 4)))
    term = term_of(name, width=3)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = term(Outputs(features, features), batch, 0.5)
    assert torch.equal(narrow, term(Outputs(features, features), batch, 0.5))


def test_rows_with_labels_are_no_part_of_the_confusion():
    source, target = drawn(0, 4, 4)
    assert value("mcc", source, target)[0] == value("mcc", -source, target)[0]


def accuracy_in_the_target_domain(name: str | None, weight: float) -> float:
    """The weights of a linear model trained on a feature that is predictive in one domain only."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(200) % 2

    def rows(second: Tensor) -> Tensor:
        first = (2.0 * classes - 1) + 0.3 * torch.randn(200, generator=generator)
        return torch.stack([first, second + 0.3 * torch.randn(200, generator=generator)], 1)

    source = rows(3 * (2.0 * classes - 1))
    target = rows(6 * (2.0 * torch.randint(2, (200,), generator=generator) - 1))
    torch.manual_seed(0)
    encoder, head = nn.Linear(2, 2), nn.Linear(2, 2)
    term = term_of(name, width=2, labels=("a", "b")) if name else None
    texts, batch = batch_of(source, target)
    learned = [*encoder.parameters(), *head.parameters()] + (list(term.parameters()) if term else [])
    optimizer = torch.optim.Adam(learned, lr=3e-2)
    for step in range(400):
        features = encoder(texts)
        logits = head(features)
        loss = F.cross_entropy(logits[:200], classes)
        if term:
            loss = loss + weight * term(Outputs(logits, features), batch, step / 400).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float((head(encoder(target)).argmax(1) == classes).float().mean())


@pytest.mark.slow
def test_domain_specific_features_become_less_important():
    assert accuracy_in_the_target_domain(None, 0) < 0.6
    for name, weight in (("coral", 100.0), ("mmd", 10.0), ("cdan", 2.0)):
        assert accuracy_in_the_target_domain(name, weight) > 0.9, name


@pytest.mark.parametrize(
    ("name", "problem"), [("cdan", "multi_label"), ("cdan", "regression"), ("mcc", "ordinal"), ("mcc", "multi_label")]
)
def test_unsupported_problem_types_are_refused(name: str, problem: str):
    with pytest.raises(UserError, match=rf"objective\.{name} .*{problem}"):
        term_of(name, width=3, problem=problem)
