"""Prototypes and their head, by hand."""

import math

import pytest
import torch

from nlp_transfer.meta.prototypes import embedded, nearest, prototypes

SUPPORT = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0], [0.0, 6.0]])


def test_a_prototype_is_the_mean_of_its_class():
    assert prototypes(SUPPORT, 2).tolist() == [[1.0, 0.0], [0.0, 5.0]]
    assert prototypes(SUPPORT, 4).tolist() == SUPPORT.tolist()


def test_squared_distances_decide():
    head = nearest(prototypes(SUPPORT, 2), "euclidean")
    assert head.weight.tolist() == [[2.0, 0.0], [0.0, 10.0]]
    assert head.bias.tolist() == [-1.0, -25.0]
    asked = torch.tensor([[1.0, 1.0]])  # at 1 and 17 from the two
    assert head.logits(asked).tolist() == [[1.0, -15.0]]
    assert head.loss(asked, torch.tensor([0])).item() == pytest.approx(math.log1p(math.exp(-16)), abs=1e-6)
    assert head.loss(asked, torch.tensor([1])).item() == pytest.approx(16.0)
    vectors = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    distances = torch.cdist(vectors, prototypes(SUPPORT, 2)) ** 2
    torch.testing.assert_close(head.logits(vectors).softmax(1), (-distances).softmax(1))


def test_cosines_decide_whatever_the_lengths():
    asked = embedded(torch.tensor([[30.0, 40.0]]), "cosine")
    torch.testing.assert_close(asked, torch.tensor([[0.6, 0.8]]))
    head = nearest(prototypes(SUPPORT, 2), "cosine")
    torch.testing.assert_close(head.logits(asked), torch.tensor([[6.0, 8.0]]))
    assert embedded(SUPPORT, "euclidean") is SUPPORT
