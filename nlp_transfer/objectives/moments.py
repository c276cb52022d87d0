"""Domains made alike by their moments: the covariances of features, or all moments at once, seen through kernels."""

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
_LEAST = 1e-6  # of what an unbiased covariance is divided by, where one text has nearly all weight


class _Between(nn.Module, ABC):
    """A number that says how far the domains are apart in a forward pass, for every example of it.

    The mean over a step is then that number, and where the step is divided, by its budget of tokens or among processes,
    the mean of the numbers of its passes: texts of two passes do not meet, and of fewer texts a number is larger by
    chance. Zero where fewer than two texts of a domain weigh anything. Shapes: features (examples, width), ``weights``
    and ``labelled`` (examples,) → (examples,).
    """

    def __init__(self, settings: CoralSettings | MmdSettings, task: Task) -> None:
        super().__init__()
        self.weight = settings.weight

    def forward(self, outputs: Outputs, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the number for every example, float32 (examples,)."""
        with torch.autocast(outputs.features.device.type, enabled=False):  # differences of sums want all digits
            features = outputs.features.float()
            source, target = sides(batch)
            apart = self.apart(features, source, target) * several(source) * several(target)
            return apart.expand(len(features))

    @abstractmethod
    def apart(self, features: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Return the number, a scalar, from the features and what they weigh in either domain."""


class Coral(_Between):
    r"""Distance between the covariances of the features of two domains (Sun and Saenko 2016, arXiv 1607.01719).

    :math:`\ell = \frac{1}{4 d^2} \| C_S - C_T \|_F^2` with d the width and, of the texts of a domain with shares
    :math:`p_i` of its weight, :math:`C = \frac{1}{1 - \sum_i p_i^2} \sum_i p_i (f_i - \bar f)(f_i - \bar f)^\top`: for
    equal weights what divides by n - 1. The mean of a domain does not count. The value falls with the fourth power of
    the length of features, so that a good weight hangs on the encoder.
    """

    def apart(self, features: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Return the distance."""
        gap = _covariance(features, share(source)) - _covariance(features, share(target))
        return gap.square().sum() / (4 * features.shape[1] ** 2)


class Mmd(_Between):
    r"""Maximum mean discrepancy of the features of two domains, by five kernels (Long et al. 2015, arXiv 1502.02791).

    :math:`\ell = \sum_{ij} a_i a_j k(f_i, f_j)` with :math:`a_i` the share of i in the weight of its domain, negative
    in the target domain: the biased estimate, which is never negative. :math:`k(x, y) = \frac15 \sum_{m=-2}^{2}
    \exp\left( -\frac{\|x - y\|^2}{2^m s} \right)`, s the mean squared distance of the texts of the pass, through which
    no gradient flows; so neither the length nor the width of features changes the value. It lies between 0 and 2.
    """

    def apart(self, features: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Return the discrepancy."""
        shares = share(source + target)
        features = features - shares @ features  # short vectors: the difference of their squares keeps its digits
        squares = features.square().sum(-1)
        distances = (squares[:, None] + squares - 2 * features @ features.T).clamp(min=0)
        distances = distances.masked_fill(torch.eye(len(features), dtype=torch.bool, device=features.device), 0)
        scale = (shares @ distances @ shares).detach().clamp(min=torch.finfo(distances.dtype).tiny)
        alike = sum((-distances / (width * scale)).exp() for width in _BANDWIDTHS) / len(_BANDWIDTHS)
        sign = share(source) - share(target)
        return sign @ alike @ sign


def _covariance(features: Tensor, shares: Tensor) -> Tensor:
    centred = features - shares @ features
    return (shares[:, None] * centred).T @ centred / (1 - shares.square().sum()).clamp(min=_LEAST)
