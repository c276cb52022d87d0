"""AdamW on float32 parameters whose forward and backward passes run in copies, mostly in bfloat16.

On a CPU gradients are read where the copies have them, and the copies renewed, a few tensors at a time: while those are
in the processor's cache. A float32 gradient of the whole model never exists, nor is one read and written again for
clipping. On a GPU all tensors are converted and copied at once, and updated group by group.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# Values of tensors that are updated at once: fewer cost more calls, more leave a CPU's cache. Elsewhere: all.
_TOGETHER = {"cpu": 1 << 20}


class _Due(NamedTuple):
    """A parameter that is to be updated."""

    parameter: nn.Parameter
    gradient: Tensor
    group: dict[str, Any]


class CopiedAdamW(torch.optim.AdamW):
    """The same as `torch.optim.AdamW`, fused, but for where gradients come from and who is told of the new values."""

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        copies: Mapping[nn.Parameter, nn.Parameter],
        *,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        """Train the parameters of `groups`.

        Args:
            groups: parameter groups.
            copies: of every parameter; its gradient, where the parameter has none itself, is the one that counts.
            betas: of AdamW.
            eps: of AdamW.
        """
        super().__init__(list(groups), betas=betas, eps=eps, fused=True)
        self._copies = copies
        self._divisor: Tensor | None = None

    def clip(self, learning: Sequence[nn.Parameter], largest: float) -> float:
        """Let the next step scale the gradients to a norm of at most `largest`; return the norm that they have."""
        gradients = [gradient for parameter in learning if (gradient := self._gradient(parameter)) is not None]
        norm = float(torch.stack(_norms(gradients)).norm()) if gradients else 0.0
        scaled = math.isfinite(norm) and norm > largest
        self._divisor = torch.tensor(norm / largest, device=gradients[0].device) if scaled else None
        return norm

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the parameters of every group whose rate is above zero, and their copies."""
        due = [
            _Due(parameter, gradient, group)
            for group in self.param_groups
            if group["lr"]
            for parameter in group["params"]
            if (gradient := self._gradient(parameter)) is not None
        ]
        for some in _few_at_once(due):
            self._update(some)
        self._divisor = None

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        super().zero_grad(set_to_none=True)
        for copy in self._copies.values():
            copy.grad = None

    def _gradient(self, parameter: nn.Parameter) -> Tensor | None:
        copied = self._copies[parameter].grad
        assert parameter.grad is None or copied is None, "one of the two would be lost"
        return copied if parameter.grad is None else parameter.grad

    def _update(self, some: list[_Due]) -> None:
        parameters: list[Tensor] = [each.parameter for each in some]
        gradients = _in_float32([each.gradient for each in some])
        states = [self.state[each.parameter] or self._begun(each.parameter) for each in some]
        moments, squares, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
        torch._foreach_add_(steps, 1)
        first = 0
        for _, members in itertools.groupby(some, key=lambda each: id(each.group)):
            own, group = slice(first, first + len(list(members))), some[first].group
            # Where adamw() of torch.optim ends, after more Python than the update of a small group takes.
            torch._fused_adamw_(
                parameters[own],
                gradients[own],
                moments[own],
                squares[own],
                [],
                steps[own],
                amsgrad=False,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
                grad_scale=self._divisor,
            )
            first = own.stop
        torch._foreach_copy_([self._copies[each.parameter] for each in some], parameters)

    def _begun(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        self.state[parameter] = {"step": torch.zeros((), device=parameter.device), **zeros}
        return self.state[parameter]


def _norms(gradients: list[Tensor]) -> list[Tensor]:
    """Return the norm of each; in float32 they are one launch on a GPU, and on a CPU never all there at once."""
    if gradients[0].device.type in _TOGETHER:
        return list(torch._foreach_norm(gradients, 2, torch.float32))
    return list(torch._foreach_norm(_in_float32(gradients)))


def _in_float32(gradients: list[Tensor]) -> list[Tensor]:
    exact = [g if g.dtype == torch.float32 else torch.empty_like(g, dtype=torch.float32) for g in gradients]
    rounded = [place for place, gradient in enumerate(gradients) if exact[place] is not gradient]
    if rounded:
        torch._foreach_copy_([exact[place] for place in rounded], [gradients[place] for place in rounded])
    return exact


def _few_at_once(due: list[_Due]) -> Iterator[list[_Due]]:
    most = _TOGETHER.get(due[0].parameter.device.type, 1 << 40) if due else 0
    some: list[_Due] = []
    size = 0
    for each in due:
        if some and size + each.parameter.numel() > most:
            yield some
            some, size = [], 0
        some.append(each)
        size += each.parameter.numel()
    if some:
        yield some
