"""The three gradients, on a linear encoder on which they can be computed by other means."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from nlp_transfer.data.batches import Columns, Padding
from nlp_transfer.data.ragged import Tokens
from nlp_transfer.data.streams import Stream
from nlp_transfer.meta.episodes import Episode, Episodes, Part
from nlp_transfer.meta.learner import FeatureExtractor, Learner
from nlp_transfer.meta.methods import METHODS, fomaml, protonet, reptile
from nlp_transfer.meta.prototypes import PrototypeHead, embedded, nearest, prototypes
from nlp_transfer.verb_settings import MetaSettings

DISTANCES = ("euclidean", "cosine")
OWN = MetaSettings(ways=3, shots=2, queries=4, inner_steps=2, inner_lr=0.05)


class Linear(Learner):
    """A learner whose texts are rows of numbers, and whose encoder is a matrix."""

    rows: Tensor

    def vectors(self, part: Part) -> Tensor:
        """Return the rows times the matrix."""
        return embedded(self.rows[part.rows] @ self.extractor.model.weight.T, self.distance)


def learner_of(distance: str) -> Linear:
    generator = torch.Generator().manual_seed(0)
    matrix = nn.Linear(5, 4, bias=False)
    matrix.weight.data = torch.randn(4, 5, generator=generator) / 2
    nothing = np.zeros(0, np.int32)
    columns = Columns(
        Tokens(nothing, None, np.zeros(1, np.int64), np.zeros(1, np.int64), nothing, nothing), nothing, nothing
    )
    learner = Linear(Accelerator(cpu=True), FeatureExtractor(matrix), columns, Padding(0, 0, False), distance)
    learner.rows = torch.randn(30, 5, generator=generator)
    return learner


def episode() -> Episode:
    given = {"ways": OWN.ways, "shots": OWN.shots, "queries": OWN.queries, "seed": 0, "stream": Stream.EPISODES}
    return Episodes(np.repeat(np.arange(5), 6), (0, 1, 2, 3, 4), **given).draw(0)


def loss_at(learner: Linear, weight: Tensor, head: PrototypeHead | None, part: Part, distance: str) -> Tensor:
    """The loss of a part as a function of the matrix; without a head under that of its prototypes of the support."""
    support, asked = episode().support, torch.from_numpy(part.answers)
    if head is None:
        head = nearest(prototypes(embedded(learner.rows[support.rows] @ weight.T, distance), OWN.ways), distance)
    return head.loss(embedded(learner.rows[part.rows] @ weight.T, distance), asked)


def walked(learner: Linear, weight: Tensor, part: Part, distance: str) -> tuple[Tensor, PrototypeHead, list[Tensor]]:
    """Take the inner steps by plain autograd; return the matrix and the head after them, and the gradients."""
    support = embedded(learner.rows[episode().support.rows] @ weight.T, distance)
    head, gradients = PrototypeHead(*(each.detach() for each in nearest(prototypes(support, OWN.ways), distance))), []
    for _ in range(OWN.inner_steps):
        weight = weight.detach().requires_grad_()
        head = PrototypeHead(*(each.detach().requires_grad_() for each in head))
        found = torch.autograd.grad(loss_at(learner, weight, head, part, distance), [weight, *head])
        gradients.append(found[0])
        weight = weight.detach() - OWN.inner_lr * found[0]
        head = PrototypeHead(*(each.detach() - OWN.inner_lr * step for each, step in zip(head, found[1:], strict=True)))
    return weight, head, gradients


@pytest.mark.parametrize("distance", DISTANCES)
def test_protonet_leaves_the_gradient_of_the_queries_through_the_prototypes(distance: str):
    learner = learner_of(distance)
    weight = learner.extractor.model.weight.detach().clone().requires_grad_()
    expected = loss_at(learner, weight, None, episode().queries, distance)
    expected.backward()
    assert protonet(learner, episode(), replace(OWN, distance=distance)) == pytest.approx(expected.item())
    torch.testing.assert_close(learner.extractor.model.weight.grad, weight.grad)


@pytest.mark.parametrize("distance", DISTANCES)
def test_fomaml_leaves_the_gradient_after_the_steps_and_that_through_where_the_head_began(distance: str):
    learner = learner_of(distance)
    weight = learner.extractor.model.weight.detach().clone()
    after, head, _ = walked(learner, weight, episode().support, distance)
    # The head after the steps is where it began and what it learned; the last is a constant to first order.
    began = weight.clone().requires_grad_()
    support = embedded(learner.rows[episode().support.rows] @ began.T, distance)
    start = nearest(prototypes(support, OWN.ways), distance)
    moved = PrototypeHead(*(s + (h - s).detach() for s, h in zip(start, head, strict=True)))
    last = after.detach().requires_grad_()
    expected = loss_at(learner, last, moved, episode().queries, distance)
    first, second = torch.autograd.grad(expected, [last, began])
    assert fomaml(learner, episode(), replace(OWN, distance=distance)) == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(learner.extractor.model.weight.grad, first + second)


@pytest.mark.parametrize("distance", DISTANCES)
def test_fomaml_without_steps_is_protonet(distance: str):
    gradients = []
    for method, own in ((protonet, OWN), (fomaml, replace(OWN, inner_steps=0))):
        learner = learner_of(distance)
        method(learner, episode(), replace(own, distance=distance))
        gradients.append(learner.extractor.model.weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("distance", DISTANCES)
def test_reptile_leaves_the_mean_of_the_gradients_on_the_way(distance: str):
    learner = learner_of(distance)
    _, _, gradients = walked(learner, learner.extractor.model.weight.detach(), episode().whole, distance)
    reptile(learner, episode(), replace(OWN, distance=distance))
    torch.testing.assert_close(
        learner.extractor.model.weight.grad, torch.stack(gradients).mean(0), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("method", METHODS)
def test_the_weights_are_as_they_were_and_episodes_are_averaged(method: str):
    learner = learner_of("cosine")
    parameter = learner.extractor.model.weight
    before = parameter.detach().clone()
    losses = 0.0
    for _ in range(3):
        losses += METHODS[method](learner, episode(), OWN)
        assert torch.equal(parameter, before)
        alone = parameter.grad
        learner.collect()
        assert parameter.grad is None
    assert learner.share(losses, 3) == pytest.approx(losses / 3)
    torch.testing.assert_close(parameter.grad, alone)
    learner.share(0.0, 1)
    assert not parameter.grad.any()  # of a rank that had no episode
