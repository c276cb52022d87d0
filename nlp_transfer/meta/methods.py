"""The gradient of one episode, by three methods of meta-learning.

All initialise the head with prototypes, as in Triantafillou et al. 2020 ("Meta-dataset", arXiv 1903.03096): with a
random head, a few steps would depend little on a pretrained encoder.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nlp_transfer.meta.episodes import Episode, Part
from nlp_transfer.meta.learner import Learner
from nlp_transfer.meta.prototypes import PrototypeHead, nearest, prototypes
from nlp_transfer.verb_settings import MetaSettings


def protonet(learner: Learner, episode: Episode, settings: MetaSettings) -> float:
    r"""Compute :math:`\nabla_\theta L(Q; \theta, c(S; \theta))`, the loss of queries under prototypes of the support.

    Snell, Swersky, Zemel 2017, arXiv 1703.05175.

    Args:
        learner: the encoder; the gradient is left in its parameters, whose values do not change.
        episode: the task.
        settings: the `meta` group.

    Returns:
        The loss of the queries.
    """
    support, queries = learner.vectors(episode.whole).tensor_split([len(episode.support.rows)])
    head = nearest(prototypes(support, len(episode.classes)), settings.distance)
    return learner.backward(head.loss(queries, learner.answers(episode.queries)))


def fomaml(learner: Learner, episode: Episode, settings: MetaSettings) -> float:
    r"""Compute the first-order gradient of the loss of the queries after some steps on the support.

    The head is initialised with prototypes, :math:`\phi_0 = h(c(S; \theta))`, and trained with the encoder:
    :math:`(\theta', \phi') = (\theta, \phi_0) - \alpha \sum_i \nabla L(S; \theta_i, \phi_i)`. The Hessians of these
    steps are neglected (Finn, Abbeel, Levine 2017, arXiv 1703.03400, section 5.2). The gradient is that of the adapted
    encoder, plus that of the adapted head propagated to its initialisation:
    :math:`\nabla_{\theta'} L(Q; \theta', \phi') + (\partial \phi_0 / \partial \theta)^\top \nabla_{\phi'} L(Q; \theta',
    \phi')`. Without steps it equals `protonet`.

    Arguments and result are those of `protonet`.
    """
    initial = learner.weights()
    head = _initial_head(learner, episode, settings)
    for _ in range(settings.inner_steps):
        head, _ = _step(learner, head, episode.support, settings.inner_lr)
    query_loss = learner.backward(head.loss(learner.vectors(episode.queries), learner.answers(episode.queries)))
    head_gradients = [part.grad for part in head if part.grad is not None]
    learner.load(initial)
    start = nearest(prototypes(learner.vectors(episode.support), len(episode.classes)), settings.distance)
    products = [(part * gradient).sum() for part, gradient in zip(start, head_gradients, strict=True)]
    learner.backward(torch.stack(products).sum())  # the vector-Jacobian product of the second term
    return query_loss


def reptile(learner: Learner, episode: Episode, settings: MetaSettings) -> float:
    r"""Compute :math:`(\theta - \theta_k) / (\alpha k)`, the mean gradient of k steps on the task.

    The steps use support and queries together, and a head that is initialised with prototypes and then discarded
    (Nichol, Achiam, Schulman 2018, arXiv 1803.02999; section 4 uses this difference as a gradient for Adam).

    Arguments are those of `protonet`.

    Returns:
        The loss of all rows before the first step.
    """
    initial = learner.weights()
    head, losses = _initial_head(learner, episode, settings), []
    for _ in range(settings.inner_steps):
        head, loss = _step(learner, head, episode.whole, settings.inner_lr)
        losses.append(loss)
    learner.load(initial, difference=1 / (settings.inner_lr * settings.inner_steps))
    return losses[0]


METHODS: dict[str, Callable[[Learner, Episode, MetaSettings], float]] = {
    "protonet": protonet,
    "fomaml": fomaml,
    "reptile": reptile,
}


def _initial_head(learner: Learner, episode: Episode, settings: MetaSettings) -> PrototypeHead:
    """Return a trainable head that is initialised with prototypes."""
    with torch.no_grad():
        support = learner.vectors(episode.support)
    return _leaves(*nearest(prototypes(support, len(episode.classes)), settings.distance))


def _step(learner: Learner, head: PrototypeHead, part: Part, rate: float) -> tuple[PrototypeHead, float]:
    """Take an SGD step with encoder and head; return the new head, and the loss before the step."""
    loss = learner.descend(head.loss(learner.vectors(part), learner.answers(part)), rate)
    with torch.no_grad():
        return _leaves(*(each - rate * each.grad for each in head if each.grad is not None)), loss


def _leaves(*parts: Tensor) -> PrototypeHead:
    return PrototypeHead(*(part.detach().requires_grad_() for part in parts))
