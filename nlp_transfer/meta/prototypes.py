"""Prototypes, the mean embeddings of a few examples of each class, and the linear head that finds the nearest one.

Snell, Swersky, Zemel 2017, "Prototypical networks for few-shot learning", arXiv 1703.05175.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

_SCALE = 10.0  # of cosines as logits of a softmax, so that a probability can become small


class PrototypeHead(NamedTuple):
    """A linear head.

    Attributes:
        weight: (ways, width).
        bias: (ways,).
    """

    weight: Tensor
    bias: Tensor

    def logits(self, vectors: Tensor) -> Tensor:
        """Return x · wₖ + bₖ: (rows, width) → (rows, ways)."""
        return vectors @ self.weight.T + self.bias

    def loss(self, vectors: Tensor, answers: Tensor) -> Tensor:
        """Return the mean cross-entropy of rows, a scalar.

        Args:
            vectors: (rows, width).
            answers: int64 (rows,).
        """
        return nn.functional.cross_entropy(self.logits(vectors), answers)


def embedded(features: Tensor, distance: str) -> Tensor:
    """Return the embeddings for a distance, (rows, width): the features, normalised to length 1 for cosines."""
    return nn.functional.normalize(features, dim=-1) if distance == "cosine" else features


def prototypes(vectors: Tensor, ways: int) -> Tensor:
    """Return the mean vector of each class: (ways · shots, width), class by class → (ways, width)."""
    return vectors.unflatten(0, (ways, -1)).mean(1)


def nearest(centres: Tensor, distance: str) -> PrototypeHead:
    r"""Return the linear head whose logits are the (negative) distances to the prototypes :math:`c_k`.

    Euclidean: :math:`-\|x - c_k\|^2 = 2 c_k \cdot x - \|c_k\|^2 - \|x\|^2`, of which the last term is equal for all
    classes (Snell et al., section 2.3). Cosine: :math:`10 \cos(x, c_k)` for x of length 1.

    Args:
        centres: (ways, width).
        distance: "euclidean" or "cosine".
    """
    if distance == "cosine":
        return PrototypeHead(_SCALE * nn.functional.normalize(centres, dim=-1), torch.zeros_like(centres[:, 0]))
    return PrototypeHead(2 * centres, -(centres**2).sum(-1))
