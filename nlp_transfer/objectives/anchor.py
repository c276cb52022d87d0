"""A penalty on moving away from the initial weights, uniform (L2-SP) or weighted by importance (EWC)."""

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
    r"""Squared distance to the initial weights, the same value for every example.

    :math:`\ell = \frac12 \sum_j F_j (\theta_j - \theta^0_j)^2` over all trainable weights that are not new: without
    adapters, a new head and the outputs of new labels, but with those of known labels (``continual.labels=all``). The
    embeddings of words that occur in no text are left out while they are set aside (see
    ``vocabulary.occurring_words``), for no text moves them.

    - l2sp: :math:`F_j = 1`: L2-SP (Li, Grandvalet and Davoine 2018, arXiv 1802.01483).
    - ewc: elastic weight consolidation (Kirkpatrick et al. 2017, arXiv 1612.00796): :math:`F_j` is the diagonal of the
      Fisher information of the known labels on replayed rows, divided by its mean over j, so that the weight of the
      term has a similar effect for both kinds.

    As the value is the same for every example, its mean over a step does not depend on how the step is divided.

    Shapes: logits (examples, outputs) → (examples,).
    """

    def __init__(self, settings: AnchorSettings, task: Task) -> None:
        super().__init__()
        self.weight, self.kind = settings.weight, settings.kind
        self._trainable: list[nn.Parameter] = []  # in a copy of the step, those of the copy
        self._held = Held()

    @property
    def held(self) -> Held:
        """The weights that are held near their start."""
        return self._held

    def setup(self, model: nn.Module, *, fresh: Collection[str], known: int) -> None:
        """Choose the weights to hold, after the strategy was applied.

        Args:
            model: of the classifier.
            fresh: names of its new parameters. The output layer is new, except for its first `known` outputs.
            known: number of outputs that are not new.

        Raises:
            UserError: if all trainable parameters are new.
        """
        prefixes = tuple(f"{name}." for name in output_layers(model))
        for name, parameter in model.named_parameters():
            is_output = name.startswith(prefixes)
            if parameter.requires_grad and (known if is_output else name not in fresh):
                self._trainable.append(parameter)
                self._held.parameters.append(parameter)
                self._held.rows.append(min(known, len(parameter)) if is_output else len(parameter))
        if not self._trainable:
            raise UserError(
                "objective.anchor keeps pretrained weights, and all of them are frozen: freeze less "
                "(strategy.freeze, strategy.freeze_layers), or leave the term out"
            )

    def hold(self, importance: Sequence[Tensor] | None = None) -> None:
        """Take the current weights as those to stay near.

        Args:
            importance: of each weight, in the order and shapes of ``held.values()``; None: uniform.
        """
        self._held.start = [value.clone() for value in self._held.values()]
        self._held.importance = None if importance is None else list(importance)

    @torch.compiler.disable  # it reads weights outside the graph
    def forward(self, outputs: Outputs, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the distance for every example, float32 (examples,)."""
        return _Distance.apply(self._held, *self._trainable).expand(len(outputs.logits))


@dataclass
class Held:
    """The float32 weights that an anchor holds, even if passes run in a bfloat16 copy of the model.

    Attributes:
        parameters: the trainable parameters.
        rows: of each, the number of leading rows that are held. An embedding table may be temporarily shortened (see
            ``vocabulary.occurring_words``); then all its rows but the last, which is no word's, are held.
        start: the values to stay near.
        importance: of the same shapes; None: uniform.
    """

    parameters: list[nn.Parameter] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    start: list[Tensor] = field(default_factory=list)
    importance: list[Tensor] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Held:
        """Return itself, so that a bfloat16 copy of the model is anchored by the float32 weights."""
        return self

    def values(self) -> list[Tensor]:
        """Return the current values, detached."""
        held = zip(self.parameters, self.rows, strict=True)
        return [parameter.detach()[: rows if rows <= len(parameter) else -1] for parameter, rows in held]

    def pull(self) -> tuple[Tensor, Sequence[Tensor]]:
        """Return the distance, float32, and its gradient by the weights."""
        moved = torch._foreach_sub(self.values(), self.start)
        gradients = moved if self.importance is None else torch._foreach_mul(moved, self.importance)
        products = [change.flatten() @ gradient.flatten() for change, gradient in zip(moved, gradients, strict=True)]
        return torch.stack(products).sum() / 2, gradients


class _Distance(torch.autograd.Function):
    """The distance as a function of the trained parameters, which may be copies of the held ones."""

    @staticmethod
    def forward(ctx: Any, held: Held, *parameters: Tensor) -> Tensor:
        value, ctx.gradients = held.pull()
        ctx.layouts = [(parameter.dtype, len(parameter)) for parameter in parameters]
        return value

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        gradients = []
        for gradient, (dtype, rows) in zip(ctx.gradients, ctx.layouts, strict=True):
            missing = rows - len(gradient)
            if missing:  # rows that are not held have no gradient
                gradient = torch.cat([gradient, gradient.new_zeros(missing, *gradient.shape[1:])])
            gradients.append((outer[0] * gradient).to(dtype))
        return None, *gradients
