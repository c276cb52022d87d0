"""AdamW on float32 parameters, with the gradients of copies (mostly bfloat16) in which the passes run.

On a CPU a few tensors at a time are converted, updated and copied back, while they are in the processor's cache; a
float32 gradient of the whole model never exists, and clipping needs no extra pass over it. On a GPU all tensors are
converted and copied at once, and updated group by group.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# Elements updated at once: fewer cost more calls, more do not fit a CPU's cache. On other devices: all.
_CHUNK = {"cpu": 1 << 20}


class _Update(NamedTuple):
    """A parameter to be updated, its gradient and its parameter group."""

    parameter: nn.Parameter
    gradient: Tensor
    group: dict[str, Any]


class CopiedAdamW(torch.optim.AdamW):
    """Fused `torch.optim.AdamW` that reads gradients from copies of the parameters, and updates the copies, too."""

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        copies: Mapping[nn.Parameter, nn.Parameter],
        *,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        """Optimize the parameters of `groups`.

        Args:
            groups: parameter groups.
            copies: from every parameter to its copy, whose gradient is used where the parameter has none itself.
            betas: of AdamW.
            eps: of AdamW.
        """
        super().__init__(list(groups), betas=betas, eps=eps, fused=True)
        self._copies = copies
        self._divisor: Tensor | None = None

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> float:
        """Have the next step clip the gradients to a norm of `max_norm`; return the norm before clipping."""
        gradients = [gradient for parameter in parameters if (gradient := self._gradient(parameter)) is not None]
        norm = float(torch.stack(_norms(gradients)).norm()) if gradients else 0.0
        should_clip = math.isfinite(norm) and norm > max_norm
        self._divisor = torch.tensor(norm / max_norm, device=gradients[0].device) if should_clip else None
        return norm

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the parameters of every group whose learning rate is above zero, and their copies."""
        updates = [
            _Update(parameter, gradient, group)
            for group in self.param_groups
            if group["lr"]
            for parameter in group["params"]
            if (gradient := self._gradient(parameter)) is not None
        ]
        for chunk in _chunks(updates):
            self._update(chunk)
        self._divisor = None

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear all gradients."""
        super().zero_grad(set_to_none=True)
        for copy in self._copies.values():
            copy.grad = None

    def _gradient(self, parameter: nn.Parameter) -> Tensor | None:
        copied = self._copies[parameter].grad
        assert parameter.grad is None or copied is None, "one of two gradients would be lost"
        return copied if parameter.grad is None else parameter.grad

    def _update(self, chunk: list[_Update]) -> None:
        parameters: list[Tensor] = [update.parameter for update in chunk]
        gradients = _in_float32([update.gradient for update in chunk])
        states = [self.state[update.parameter] or self._new_state(update.parameter) for update in chunk]
        moments, squares, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
        torch._foreach_add_(steps, 1)
        start = 0
        for _, members in itertools.groupby(chunk, key=lambda update: id(update.group)):
            part, group = slice(start, start + len(list(members))), chunk[start].group
            # What torch.optim's adamw() ends in, after more Python than updating a small group takes.
            torch._fused_adamw_(
                parameters[part],
                gradients[part],
                moments[part],
                squares[part],
                [],
                steps[part],
                amsgrad=False,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
                grad_scale=self._divisor,
            )
            start = part.stop
        torch._foreach_copy_([self._copies[update.parameter] for update in chunk], parameters)

    def _new_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        self.state[parameter] = {"step": torch.zeros((), device=parameter.device), **zeros}
        return self.state[parameter]


def _norms(gradients: list[Tensor]) -> list[Tensor]:
    """Return the norm of each gradient: on a CPU without float32 copies of all, on a GPU in one launch."""
    if gradients[0].device.type in _CHUNK:
        return list(torch._foreach_norm(gradients, 2, torch.float32))
    return list(torch._foreach_norm(_in_float32(gradients)))


def _in_float32(gradients: list[Tensor]) -> list[Tensor]:
    converted = [g if g.dtype == torch.float32 else torch.empty_like(g, dtype=torch.float32) for g in gradients]
    changed = [(new, old) for new, old in zip(converted, gradients, strict=True) if new is not old]
    if changed:
        targets, sources = zip(*changed, strict=True)
        torch._foreach_copy_(targets, sources)
    return converted


def _chunks(updates: list[_Update]) -> Iterator[list[_Update]]:
    limit = _CHUNK.get(updates[0].parameter.device.type, 1 << 40) if updates else 0
    chunk: list[_Update] = []
    size = 0
    for update in updates:
        if chunk and size + update.parameter.numel() > limit:
            yield chunk
            chunk, size = [], 0
        chunk.append(update)
        size += update.parameter.numel()
    if chunk:
        yield chunk
