"""What one episode teaches an encoder: three ways to a gradient. Optimizer, ranks and data are others' business.

All start from prototypes, as in Triantafillou et al. 2020 ("Meta-dataset", arXiv 1903.03096): under a head that began
with random weights, a few steps would tell little of an encoder that is pretrained.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nlp_transfer.meta.episodes import Episode, Part
from nlp_transfer.meta.learner import Learner
from nlp_transfer.meta.prototypes import Head, nearest, prototypes
from nlp_transfer.verb_settings import MetaSettings


def protonet(learner: Learner, episode: Episode, settings: MetaSettings) -> float:
    r"""Leave :math:`\nabla_\theta L(Q; \theta, c(S; \theta))`: the queries are told by the prototypes of the support.

    Snell, Swersky, Zemel 2017, arXiv 1703.05175.

    Args:
        learner: the encoder; the gradient is left in its parameters, which are as they were.
        episode: the task.
        settings: the `meta` group.

    Returns:
        The loss of the queries.
    """
    support, queries = learner.vectors(episode.whole).tensor_split([len(episode.support.rows)])
    head = nearest(prototypes(support, len(episode.classes)), settings.distance)
    return learner.backward(head.loss(queries, learner.answers(episode.queries)))


def fomaml(learner: Learner, episode: Episode, settings: MetaSettings) -> float:
    r"""Leave the first-order gradient of the loss of the queries after some steps on the support.

    The head starts as that of the prototypes, :math:`\phi_0 = h(c(S; \theta))`, and learns with the encoder:
    :math:`(\theta', \phi') = (\theta, \phi_0) - \alpha \sum_i \nabla L(S; \theta_i, \phi_i)`. The Hessians of these
    steps are left out (Finn, Abbeel, Levine 2017, arXiv 1703.03400, section 5.2); what the queries tell then reaches
    the encoder as it is after them, and where the head began:
    :math:`\nabla_{\theta'} L(Q; \theta', \phi') + (\partial \phi_0 / \partial \theta)^\top \nabla_{\phi'} L(Q; \theta',
    \phi')`. Without steps that is `protonet`.

    Arguments and result are those of `protonet`.
    """
    begun = learner.weights()
    head = _started(learner, episode, settings)
    for _ in range(settings.inner_steps):
        head, _ = _descended(learner, head, episode.support, settings.inner_lr)
    asked = learner.backward(head.loss(learner.vectors(episode.queries), learner.answers(episode.queries)))
    told = [part.grad for part in head if part.grad is not None]
    learner.load(begun)
    start = nearest(prototypes(learner.vectors(episode.support), len(episode.classes)), settings.distance)
    reached = [(part * gradient).sum() for part, gradient in zip(start, told, strict=True)]
    learner.backward(torch.stack(reached).sum())
    return asked


def reptile(learner: Learner, episode: Episode, settings: MetaSettings) -> float:
    r"""Leave :math:`(\theta - \theta_k) / (\alpha k)`: the mean of the gradients on the way to an encoder of the task.

    It learns from support and queries alike, under a head that starts as that of the prototypes and is forgotten
    (Nichol, Achiam, Schulman 2018, arXiv 1803.02999; section 4 gives such a difference to Adam as a gradient).

    Arguments are those of `protonet`.

    Returns:
        The loss of all rows before the first step.
    """
    begun = learner.weights()
    head, losses = _started(learner, episode, settings), []
    for _ in range(settings.inner_steps):
        head, loss = _descended(learner, head, episode.whole, settings.inner_lr)
        losses.append(loss)
    learner.load(begun, difference=1 / (settings.inner_lr * settings.inner_steps))
    return losses[0]


METHODS: dict[str, Callable[[Learner, Episode, MetaSettings], float]] = {
    "protonet": protonet,
    "fomaml": fomaml,
    "reptile": reptile,
}


def _started(learner: Learner, episode: Episode, settings: MetaSettings) -> Head:
    """Return the head of the prototypes, which learns by itself from here on."""
    with torch.no_grad():
        support = learner.vectors(episode.support)
    return _leaves(*nearest(prototypes(support, len(episode.classes)), settings.distance))


def _descended(learner: Learner, head: Head, part: Part, rate: float) -> tuple[Head, float]:
    """Take a plain gradient step with encoder and head; return the head after it, and the loss before."""
    loss = learner.descend(head.loss(learner.vectors(part), learner.answers(part)), rate)
    with torch.no_grad():
        return _leaves(*(each - rate * each.grad for each in head if each.grad is not None)), loss


def _leaves(*parts: Tensor) -> Head:
    return Head(*(part.detach().requires_grad_() for part in parts))
