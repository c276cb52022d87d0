"""What the model had before pulls it back: near to where its weights started, or there alone where they mattered."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nlp_transfer.data.task import Task
from nlp_transfer.encoder.anatomy import output_layers
from nlp_transfer.encoder.classifier import Outputs
from nlp_transfer.errors import UserError
from nlp_transfer.objectives.settings import AnchorSettings


class Anchor(nn.Module):
    r"""Squared distance to the weights that the model started from, the same for every example.

    :math:`\ell = \frac12 \sum_j F_j (\theta_j - \theta^0_j)^2` over all that learns and was there before: not over what
    is new, such as an adapter, a head, or the outputs of new labels; over those of known labels where they stay
    (``continual.labels=all``); and not over the embeddings of words that occur in no text of the run where these are
    set aside while it trains (see ``vocabulary.occurring_words``), for no text moves them.

    - l2sp: :math:`F_j = 1`: L2-SP (Li, Grandvalet and Davoine 2018, arXiv 1802.01483).
    - ewc: elastic weight consolidation (Kirkpatrick et al. 2017, arXiv 1612.00796): :math:`F_j` the diagonal of the
      Fisher information of the known labels on replayed rows, divided by its mean over the same j, so that a weight
      means much the same for both kinds: the mean pull on what a text of the run can move.

    As it is the same for every example, the mean over a step is exact however that is divided.

    Shapes: logits (examples, outputs) → (examples,).
    """

    def __init__(self, settings: AnchorSettings, task: Task) -> None:
        super().__init__()
        self.weight, self.kind = settings.weight, settings.kind
        self._learning: list[nn.Parameter] = []  # of the copy, in a copy of the step
        self._held = Held()

    @property
    def held(self) -> Held:
        """What is held."""
        return self._held

    def setup(self, model: nn.Module, *, fresh: Collection[str], known: int) -> None:
        """Choose what is held, after a strategy has said what learns.

        Args:
            model: of the classifier.
            fresh: names of its parameters that are new; the output layer is in any case, but for its first outputs.
            known: of which so many were there before.

        Raises:
            UserError: if nothing that learns was there before.
        """
        outputs = tuple(f"{name}." for name in output_layers(model))
        for name, parameter in model.named_parameters():
            output = name.startswith(outputs)
            if parameter.requires_grad and (known if output else name not in fresh):
                self._learning.append(parameter)
                self._held.parameters.append(parameter)
                self._held.rows.append(min(known, len(parameter)) if output else len(parameter))
        if not self._learning:
            raise UserError(
                "objective.anchor holds what the encoder had before, and nothing of that learns: freeze less "
                "(strategy.freeze, strategy.freeze_layers), or leave the term out"
            )

    def hold(self, importance: Sequence[Tensor] | None = None) -> None:
        """Take the weights as they are now for those to stay at.

        Args:
            importance: how much each of them matters, in the order and shapes of ``held.values()``; None: all alike.
        """
        self._held.start = [value.clone() for value in self._held.values()]
        self._held.importance = None if importance is None else list(importance)

    @torch.compiler.disable  # what it reads is no part of the graph
    def forward(self, outputs: Outputs, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the distance for every example, float32 (examples,)."""
        return _Distance.apply(self._held, *self._learning).expand(len(outputs.logits))


@dataclass
class Held:
    """What an anchor holds: the weights in float32, also where the passes run in a copy of the model.

    Attributes:
        parameters: that are trained.
        rows: of each, how many rows count, the first ones; a table of words may be shorter for a while, and its last
            row is no word's then (``vocabulary.occurring_words``), and does not count.
        start: where they were.
        importance: of the same shapes, or None: all alike.
    """

    parameters: list[nn.Parameter] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    start: list[Tensor] = field(default_factory=list)
    importance: list[Tensor] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Held:
        """Return itself: a copy of the model in bfloat16 is held where the model is, with all digits."""
        return self

    def values(self) -> list[Tensor]:
        """Return the weights as they are, without gradient."""
        held = zip(self.parameters, self.rows, strict=True)
        return [each.detach()[: rows if rows <= len(each) else -1] for each, rows in held]

    def pull(self) -> tuple[Tensor, Sequence[Tensor]]:
        """Return the distance, float32, and its slope at each of the weights."""
        apart = torch._foreach_sub(self.values(), self.start)
        slopes = apart if self.importance is None else torch._foreach_mul(apart, self.importance)
        return torch.stack([a.flatten() @ s.flatten() for a, s in zip(apart, slopes, strict=True)]).sum() / 2, slopes


class _Distance(torch.autograd.Function):
    """The distance as a function of what is learned, which may be a copy of what is held."""

    @staticmethod
    def forward(ctx: Any, held: Held, *learning: Tensor) -> Tensor:
        value, ctx.slopes = held.pull()
        ctx.like = [(each.dtype, len(each)) for each in learning]
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        found = []
        for slope, (kind, rows) in zip(ctx.slopes, ctx.like, strict=True):
            whole = (
                slope
                if len(slope) == rows
                else torch.cat([slope, slope.new_zeros(rows - len(slope), *slope.shape[1:])])
            )
            found.append((gradients[0] * whole).to(kind))
        return None, *found
