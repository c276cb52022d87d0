"""Computing in bfloat16: a copy of the model with bfloat16 weights, made from the float32 ones.

Autocast would convert weights and activations at every layer: on a CPU that costs more than faster matrix products
save, on a GPU it costs memory and kernel launches.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from nlp_transfer.encoder.anatomy import output_layers

_WITH_COPIES = {"cpu", "cuda"}  # device types on which a copy was measured to be faster than autocast


def working_copy(accelerator: Accelerator, *, compiled: bool) -> type[WorkingCopy] | None:
    """Return the class that makes the copy in which passes run, or None if they run in the model itself."""
    return WorkingCopy if computes_in_bfloat16(accelerator) and not compiled else None


def computes_in_bfloat16(accelerator: Accelerator) -> bool:
    """Return whether bfloat16 copies are used; on other devices, or with an explicit autocast handler, autocast is."""
    with_copies = accelerator.device.type in _WITH_COPIES and accelerator.autocast_handler is None
    return accelerator.mixed_precision == "bf16" and with_copies


def in_bfloat16(module: nn.Module, model: nn.Module) -> nn.Module:
    """Return a copy of a module in which the weights of the model are bfloat16.

    Output layers stay in float32, and so do buffers, such as positions.

    Args:
        module: the model, or a module that contains it.
        model: a classifier's model, maybe wrapped by PEFT.
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
    """Have a layer convert its inputs to float32, whatever the layers below compute in."""
    layer.register_forward_pre_hook(_in_float32, prepend=True)


def why_not_in_bfloat16(model: Any, rows: Mapping[str, Tensor], *, autocast: bool = False) -> str | None:
    """Return why a model cannot compute in bfloat16, in a copy or under autocast, or None if it can.

    Tries a forward and backward pass over the rows in a copy; the model itself stays unchanged.
    """
    try:
        trial = copy.deepcopy(model) if autocast else in_bfloat16(model, model)
        with torch.autocast(next(iter(rows.values())).device.type, torch.bfloat16, enabled=autocast):
            logits = trial(**rows).logits
        if logits.requires_grad:
            logits.sum().backward()
    except Exception as error:  # architectures and adapters fail in many ways
        return f"{type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else ''}"
    return None


def is_in_bfloat16(model: nn.Module) -> bool:
    """Return whether a model has bfloat16 weights."""
    return any(parameter.dtype == torch.bfloat16 for parameter in model.parameters())


class WorkingCopy:
    """The bfloat16 copy of a step in which passes run, while the optimizer trains the float32 parameters.

    Attributes:
        module: the copy; called as the step is.
        copies: from every trainable parameter to its copy.
    """

    def __init__(self, step: Any) -> None:
        """Copy `step`, a module with an attribute `model`."""
        step_copy = in_bfloat16(step, step.model)
        copied = dict(step_copy.named_parameters())
        self.module = _WithoutAutocast(step_copy)
        self.copies = {p: copied[name] for name, p in step.named_parameters() if p.requires_grad}

    def refresh(self) -> None:
        """Copy the float32 weights, after anything but the optimizer has changed them."""
        with torch.no_grad():
            torch._foreach_copy_(list(self.copies.values()), list(self.copies))

    def forget(self) -> None:
        """Clear the gradients of the float32 parameters."""
        for parameter in self.copies:
            parameter.grad = None

    def hand_over(self) -> None:
        """Move the gradients of the copies to the float32 parameters, adding to theirs."""
        for parameter, copied in self.copies.items():
            if copied.grad is not None:
                gradient = copied.grad.to(parameter.dtype)
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
                copied.grad = None


def _in_float32(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(each.float() for each in inputs)


class _WithoutAutocast(nn.Module):
    """Runs a step with autocast off; accelerate switches it on for every prepared model."""

    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        self.step = step

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the loss of the step."""
        with torch.autocast(batch["weights"].device.type, enabled=False):
            return self.step(batch, progress)
