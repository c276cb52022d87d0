"""Weights, gradients and moments shared out among the ranks (FSDP2), and the model in one piece to all that sees it.

A model that fits a GPU need not fit it while it learns: AdamW in float32 keeps four numbers a weight. Here each rank
keeps its part of them, and gathers the weights of one layer at a time for as long as that runs (Zhao et al. 2023, arXiv
2304.11277). Where the model is measured or saved it is gathered whole, so that nothing else knows of this; a checkpoint
holds whole tensors, so that a run goes on on any number of processes.
"""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator, DistributedType, PartialState
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from nlp_transfer.composing.shipped import launch_file
from nlp_transfer.encoder.anatomy import output_layers
from nlp_transfer.errors import UserError
from nlp_transfer.settings import Settings
from nlp_transfer.strategies import Group
from nlp_transfer.training.bfloat16 import enter_in_float32

_FILE = "the file of `accelerate launch --config_file`"


def is_sharding(accelerator: Accelerator) -> bool:
    """Return whether the launcher asked for the weights to be shared out."""
    return bool(accelerator.distributed_type == DistributedType.FSDP)


def missing_gpus(state: Accelerator | PartialState) -> str | None:
    """Return a sentence if FSDP was asked for on processors, of which accelerate takes no notice, else None."""
    asked = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    if not asked or state.distributed_type != DistributedType.MULTI_CPU:
        return None
    return f"accelerate has FSDP on GPUs alone: launch on processors with {launch_file('cpu.yaml')}"


def check_launched(accelerator: Accelerator) -> None:
    """Refuse what cannot be had of FSDP, before anything is loaded.

    Raises:
        UserError: naming the key of the launcher's file.
    """
    if missing := missing_gpus(accelerator):
        raise UserError(missing)
    if not is_sharding(accelerator):
        return
    plugin = accelerator.state.fsdp_plugin
    asked = {
        "fsdp_version: 1": (plugin.fsdp_version != 2, "set fsdp_version: 2"),
        "fsdp_cpu_ram_efficient_loading: true": (
            plugin.cpu_ram_efficient_loading,
            "set it to false: every process reads the encoder, to fit a head to it",
        ),
        "fsdp_activation_checkpointing: true": (
            plugin.activation_checkpointing,
            "set it to false, and training.gradient_checkpointing=true for the run",
        ),
        "fsdp_offload_params: true": (bool(getattr(plugin.cpu_offload, "pin_memory", False)), "set it to false"),
        "parallelism_config": (accelerator.parallelism_config is not None, "take it out"),
    }
    for key, (given, instead) in asked.items():
        if given:
            raise UserError(f"{key} in {_FILE} is not for this program: {instead}")
    if accelerator.mixed_precision == "fp16":
        raise UserError("training.precision=fp16 cannot be had under FSDP: set it to bf16, fp32 or auto")


def check_shareable(accelerator: Accelerator, settings: Settings) -> None:
    """Refuse a training that needs more of the weights at once than a rank has of them under FSDP.

    Raises:
        UserError: naming the key and how to launch instead.
    """
    if not is_sharding(accelerator):
        return
    instead = "launch it without FSDP (`accelerate launch --multi_gpu`)"
    if "anchor" in settings.objective:
        raise UserError(f"objective.anchor compares all weights in every pass, of which FSDP gathers few: {instead}")
    if settings.training.compile:
        raise UserError(f"training.compile=true is untried under FSDP: set it to false, or {instead}")


class Sharded:
    """The copy of a step in which it learns where ranks share its parameters out; the step itself is empty meanwhile.

    Attributes:
        module: maps what the step does; its parameters are those that are trained.
    """

    def __init__(self, step: Any, accelerator: Accelerator) -> None:
        """Share out `step`, whose `model` does the work and whose parameters are the same on every rank."""
        whole = dict(step.named_parameters())
        memo: dict[int, Any] = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in whole.values()}
        self.module = copy.deepcopy(step, memo)
        _share_out(self.module, accelerator)
        self._shares = {whole[name]: share for name, share in self.module.named_parameters()}
        self._empty()

    def groups(self, groups: Sequence[Group]) -> list[Group]:
        """Return groups of the step's parameters as such of this rank's shares of them."""
        return [
            dataclasses.replace(group, parameters={name: self._shares[p] for name, p in group.parameters.items()})
            for group in groups
        ]

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Give the step its weights, as they are now, for the time of the block. All ranks do it together."""
        self.give_back()
        try:
            yield
        finally:
            self._empty()

    def give_back(self) -> None:
        """Give the step its weights. All ranks do it together."""
        for parameter, share in self._shares.items():
            parameter.data = in_one_piece(share.detach())

    def _empty(self) -> None:
        """Leave the step parameters of their shapes that take no memory and cannot be written to."""
        for parameter in self._shares:
            parameter.data = parameter.new_zeros(()).expand(parameter.shape)


def in_one_piece(tensor: Tensor) -> Tensor:
    """Return a tensor as it is, or put together from the shares of all ranks, which do it together."""
    return tensor.full_tensor() if _is_share(tensor) else tensor  # type: ignore[attr-defined]


def collected(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors in one piece; where they were shared out, in the memory of the first rank's processor alone."""
    if not any(map(_is_share, tensors.values())):
        return dict(tensors)
    first, found = torch.distributed.get_rank() == 0, {}
    for name, tensor in tensors.items():
        piece = in_one_piece(tensor.detach())
        if first:
            found[name] = piece.cpu()
    return found


def shared_as(value: Tensor, parameter: Tensor) -> Tensor:
    """Return a value on a parameter's device and, where that is shared out and the value is not, this rank's share."""
    value = value.to(parameter.device)
    if not _is_share(parameter) or _is_share(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    place: Any = parameter
    return distribute_tensor(value, place.device_mesh, place.placements)


def _is_share(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")  # a DTensor, which takes time to import


def _share_out(step: Any, accelerator: Accelerator) -> None:
    """Replace the parameters of a step by this rank's shares, gathered layer by layer.

    In bfloat16 the same is computed in float32 as in a working copy: what makes the logits, and terms.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard  # takes time, and a single process never does
    from transformers.modeling_layers import GradientCheckpointingLayer

    exact = MixedPrecisionPolicy()
    inner = exact
    if accelerator.mixed_precision == "bf16":
        inner = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    again = accelerator.state.fsdp_plugin.reshard_after_forward
    for layer in output_layers(step.model).values():
        fully_shard(layer, mp_policy=exact, reshard_after_forward=again)
        if inner is not exact:
            enter_in_float32(layer)
    for layer in [module for module in step.model.modules() if isinstance(module, GradientCheckpointingLayer)]:
        layer.register_forward_hook(_without_views)
        fully_shard(layer, mp_policy=inner, reshard_after_forward=again)
    fully_shard(step.model, mp_policy=inner, reshard_after_forward=False)
    fully_shard(step, mp_policy=exact)


def _without_views(_: nn.Module, __: Any, output: Any) -> Any:
    """Copy what is a view of another tensor: changed in place later on, it would lose what FSDP has hung on it."""
    return tree_map(lambda each: each.clone() if isinstance(each, Tensor) and each._is_view() else each, output)
