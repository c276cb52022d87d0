"""AdamW on float32 parameters whose forward and backward passes run in copies, mostly in bfloat16.

Gradients are read where the copies have them, and the copies renewed, a few tensors at a time: while those are in the
processor's cache. A float32 gradient of the whole model never exists, nor is one read and written again for clipping.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

_TOGETHER = 1 << 20  # values of tensors that are updated at once; fewer cost more calls, more leave the cache


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
        norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients]
        norm = float(torch.stack(norms).norm()) if norms else 0.0
        self._divisor = torch.tensor(norm / largest) if math.isfinite(norm) and norm > largest else None
        return norm

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the parameters of every group whose rate is above zero, and their copies."""
        for group in self.param_groups:
            if group["lr"]:
                with_gradient = [(p, gradient) for p in group["params"] if (gradient := self._gradient(p)) is not None]
                for some in _few_at_once(with_gradient):
                    self._update(some, group)
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

    def _update(self, some: list[tuple[nn.Parameter, Tensor]], group: dict[str, Any]) -> None:
        states = [self.state[parameter] or self._begun(parameter) for parameter, _ in some]
        adamw(
            [parameter for parameter, _ in some],
            [gradient.float() for _, gradient in some],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            grad_scale=self._divisor,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        for parameter, _ in some:
            self._copies[parameter].copy_(parameter)

    def _begun(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        self.state[parameter] = {"step": torch.zeros(()), **zeros}
        return self.state[parameter]


def _few_at_once(pairs: list[tuple[nn.Parameter, Tensor]]) -> Iterator[list[tuple[nn.Parameter, Tensor]]]:
    some: list[tuple[nn.Parameter, Tensor]] = []
    size = 0
    for parameter, gradient in pairs:
        if some and size + parameter.numel() > _TOGETHER:
            yield some
            some, size = [], 0
        some.append((parameter, gradient))
        size += parameter.numel()
    if some:
        yield some
