"""Matrix products in bfloat16: copies of a model whose weights are bfloat16, made from those in float32.

Autocast would convert weights and activations at every layer. On a CPU that costs more than the products save, on a GPU
memory and the launching of kernels.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from nlp_transfer.encoder.anatomy import output_layers

_WITH_COPIES = {"cpu", "cuda"}  # where that was measured to be faster


def working_copy(accelerator: Accelerator, *, compiled: bool) -> type[WorkingCopy] | None:
    """Return what makes the copies in which a training runs, or None: it runs in the model itself."""
    return WorkingCopy if computes_in_bfloat16(accelerator) and not compiled else None


def computes_in_bfloat16(accelerator: Accelerator) -> bool:
    """Return whether copies in bfloat16 are used; elsewhere, and where an accelerator was told how, autocast is."""
    with_copies = accelerator.device.type in _WITH_COPIES and accelerator.autocast_handler is None
    return accelerator.mixed_precision == "bf16" and with_copies


def in_bfloat16(module: nn.Module, model: nn.Module) -> nn.Module:
    """Return a copy of a module with the weights of the model in it in bfloat16.

    What makes the logits stays in float32, and so do buffers: positions are no weights.

    Args:
        module: the model, or what holds it.
        model: of a classifier, maybe wrapped by PEFT.
    """
    outputs = output_layers(model).values()
    exact = {id(parameter) for layer in outputs for parameter in layer.parameters()}
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        if parameter.dtype == torch.float32 and id(parameter) not in exact:
            memo[id(parameter)] = nn.Parameter(parameter.detach().to(torch.bfloat16), parameter.requires_grad)
    copied = copy.deepcopy(module, memo)
    for layer in outputs:
        enter_in_float32(memo[id(layer)])
    return copied


def enter_in_float32(layer: nn.Module) -> None:
    """Let a layer compute in float32 whatever the layers below it do."""
    layer.register_forward_pre_hook(_in_float32, prepend=True)


def why_not_in_bfloat16(model: Any, rows: Mapping[str, Tensor], *, autocast: bool = False) -> str | None:
    """Return why a model cannot compute in bfloat16, in a copy or under autocast, or None.

    It is tried on rows, backwards too; the model stays as it is.
    """
    try:
        own = copy.deepcopy(model) if autocast else in_bfloat16(model, model)
        with torch.autocast(next(iter(rows.values())).device.type, torch.bfloat16, enabled=autocast):
            logits = own(**rows).logits
        if logits.requires_grad:
            logits.sum().backward()
    except Exception as error:  # architectures and adapters refuse in many ways what they do not know
        return f"{type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else ''}"
    return None


def is_in_bfloat16(model: nn.Module) -> bool:
    """Return whether a model is such a copy."""
    return any(parameter.dtype == torch.bfloat16 for parameter in model.parameters())


class WorkingCopy:
    """The copy of a step in which forward and backward passes run; what is trained are the parameters in float32.

    Attributes:
        module: maps what the step does.
        copies: of every parameter that is trained.
    """

    def __init__(self, step: Any) -> None:
        """Copy `step`, whose `model` does the work."""
        own = in_bfloat16(step, step.model)
        copied = dict(own.named_parameters())
        self.module = _WithoutAutocast(own)
        self.copies = {p: copied[name] for name, p in step.named_parameters() if p.requires_grad}

    def refresh(self) -> None:
        """Take over the weights after they were changed by anything but the optimizer."""
        with torch.no_grad():
            torch._foreach_copy_(list(self.copies.values()), list(self.copies))

    def forget(self) -> None:
        """Leave the parameters in float32 without gradient."""
        for parameter in self.copies:
            parameter.grad = None

    def hand_over(self) -> None:
        """Add the gradient to that of the parameters in float32, and forget it."""
        for parameter, own in self.copies.items():
            if own.grad is not None:
                gradient = own.grad.to(parameter.dtype)
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
                own.grad = None


def _in_float32(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(each.float() for each in inputs)


class _WithoutAutocast(nn.Module):
    """A step that converts nothing: accelerate puts every prepared model under autocast."""

    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        self.step = step

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return what the step does."""
        with torch.autocast(batch["weights"].device.type, enabled=False):
            return self.step(batch, progress)
