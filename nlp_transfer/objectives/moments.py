"""Domain adaptation by matching moments: the covariances of features (CORAL), or all moments by kernels (MMD)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nlp_transfer.data.task import Task
from nlp_transfer.encoder.classifier import Outputs
from nlp_transfer.objectives.domains import several, share, sides
from nlp_transfer.objectives.settings import CoralSettings, MmdSettings

_BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # in mean squared distances
_LEAST = 1e-6  # lower bound of the divisor of an unbiased covariance, if one text has nearly all weight


class _Between(nn.Module, ABC):
    """A distance between the domains in a forward pass, the same value for every example.

    If a step is divided, by `micro_batch_tokens` or over ranks, its loss is the mean distance of its passes; of fewer
    texts a distance is larger by chance. Zero if fewer than two texts of a domain have weight. Shapes: features
    (examples, width), ``weights`` and ``labelled`` (examples,) → (examples,).
    """

    def __init__(self, settings: CoralSettings | MmdSettings, task: Task) -> None:
        super().__init__()
        self.weight = settings.weight

    def forward(self, outputs: Outputs, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the distance for every example, float32 (examples,)."""
        with torch.autocast(outputs.features.device.type, enabled=False):  # differences of sums need all digits
            features = outputs.features.float()
            source, target = sides(batch)
            distance = self.distance(features, source, target) * several(source) * several(target)
            return distance.expand(len(features))

    @abstractmethod
    def distance(self, features: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Return the distance, a scalar, from the features and their weights in each domain."""


class Coral(_Between):
    r"""Distance between the covariances of the features of two domains (Sun and Saenko 2016, arXiv 1607.01719).

    :math:`\ell = \frac{1}{4 d^2} \| C_S - C_T \|_F^2` with d the width and, for a domain whose texts have the shares
    :math:`p_i` of its weight, :math:`C = \frac{1}{1 - \sum_i p_i^2} \sum_i p_i (f_i - \bar f)(f_i - \bar f)^\top`, for
    equal weights the covariance with the divisor n - 1. The value scales with the fourth power of the norm of
    features, so that a good weight of the term depends on the encoder.
    """

    def distance(self, features: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Return the distance between the covariances."""
        gap = _covariance(features, share(source)) - _covariance(features, share(target))
        return gap.square().sum() / (4 * features.shape[1] ** 2)


class Mmd(_Between):
    r"""Maximum mean discrepancy of the features of two domains, by five kernels (Long et al. 2015, arXiv 1502.02791).

    :math:`\ell = \sum_{ij} a_i a_j k(f_i, f_j)` with :math:`a_i` the share of i in the weight of its domain, negative
    in the target domain: the biased estimate, which is never negative. :math:`k(x, y) = \frac15 \sum_{m=-2}^{2}
    \exp\left( -\frac{\|x - y\|^2}{2^m s} \right)`, s the mean squared distance of the texts of the pass, without
    gradient, so that the value depends on neither the norm nor the width of features. It lies between 0 and 2.
    """

    def distance(self, features: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Return the discrepancy."""
        shares = share(source + target)
        features = features - shares @ features  # centred, for precision in the difference of squares
        squares = features.square().sum(-1)
        distances = (squares[:, None] + squares - 2 * features @ features.T).clamp(min=0)
        distances = distances.masked_fill(torch.eye(len(features), dtype=torch.bool, device=features.device), 0)
        scale = (shares @ distances @ shares).detach().clamp(min=torch.finfo(distances.dtype).tiny)
        kernel = sum((-distances / (width * scale)).exp() for width in _BANDWIDTHS) / len(_BANDWIDTHS)
        sign = share(source) - share(target)
        return sign @ kernel @ sign


def _covariance(features: Tensor, shares: Tensor) -> Tensor:
    centred = features - shares @ features
    return (shares[:, None] * centred).T @ centred / (1 - shares.square().sum()).clamp(min=_LEAST)
