"""PEFT's LoRA layer as a single autograd node: the same result with fewer passes over memory."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nlp_transfer.encoder.dropout import scaled_mask


def make_lora_cheap(model: nn.Module) -> None:
    """Turn every LoRA layer over an `nn.Linear` into a `CheapLinear`; parameters, names and state stay PEFT's."""
    for module in model.modules():
        if type(module) is Linear and type(module.get_base_layer()) is nn.Linear:
            module.__class__ = CheapLinear


class CheapLinear(Linear):
    """PEFT's LoRA layer with its own autograd node: y = x·Wᵀ + b + s·drop(x)·Aᵀ·Bᵀ with frozen W and b.

    In all other cases (several adapters, DoRA and other variants, LoRA biases, autocast, a trainable base layer) it
    runs PEFT's code.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return y, (..., outputs)."""
        name = self.active_adapters[0] if len(self.active_adapters) == 1 else ""
        if args or kwargs or not torch.is_grad_enabled() or not self._is_plain(name, x):
            return super().forward(x, *args, **kwargs)
        base, down, up = self.get_base_layer(), self.lora_A[name], self.lora_B[name]
        dropout = self.lora_dropout[name]
        share = dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
        return _LowRank.apply(x, base.weight, base.bias, down.weight, up.weight, self.scaling[name], share)

    def _is_plain(self, name: str, x: Tensor) -> bool:
        if name not in self.lora_A or name in self.lora_variant or self.disable_adapters or self.merged:
            return False
        down, up = self.lora_A[name], self.lora_B[name]
        constant = list(self.get_base_layer().parameters())
        return (
            down.bias is None
            and up.bias is None
            and not any(parameter.requires_grad for parameter in constant)
            and {each.dtype for each in (x, down.weight, up.weight, *constant)} == {x.dtype}
            and not torch.is_autocast_enabled(x.device.type)
            and isinstance(self.lora_dropout[name], nn.Dropout | nn.Identity)
        )


class _LowRank(torch.autograd.Function):
    """(..., inputs) -> (..., outputs), with weights of (outputs, inputs), (rank, inputs) and (outputs, rank)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float, dropout: float
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        kept = scaled_mask(rows, dropout) if dropout else None
        dropped = rows if kept is None else rows * kept
        low = dropped @ down.t()
        out = nn.functional.linear(rows, weight, bias).addmm_(low, up.t(), alpha=scale)
        ctx.save_for_backward(dropped, kept, low, weight, down, up)
        ctx.scale, ctx.shape = scale, x.shape
        return out.view(*x.shape[:-1], out.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        dropped, kept, low, weight, down, up = ctx.saved_tensors
        gradient = gradient.reshape(-1, gradient.shape[-1])
        d_low = (gradient @ up).mul_(ctx.scale)
        d_up = (gradient.t() @ low).mul_(ctx.scale)
        d_down = d_low.t() @ dropped
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = gradient @ weight
            d_x = d_x.addmm_(d_low, down) if kept is None else d_x.addcmul_(d_low @ down, kept)
            d_x = d_x.view(ctx.shape)
        return d_x, None, None, d_down, d_up, None, None
