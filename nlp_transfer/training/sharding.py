"""Weights, gradients and moments sharded over the ranks (FSDP2), while the rest of the program sees the whole model.

A model that fits a GPU need not fit it in training: AdamW in float32 keeps four numbers a weight. Here each rank keeps
a shard of them, and gathers the weights of one layer at a time while that runs (Zhao et al. 2023, arXiv 2304.11277).
The model is gathered to be evaluated or saved, so that other code knows nothing of sharding; checkpoints hold whole
tensors, so that a run can resume on any number of processes.
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
    """Return whether the launcher asked for FSDP."""
    return bool(accelerator.distributed_type == DistributedType.FSDP)


def missing_gpus(state: Accelerator | PartialState) -> str | None:
    """Return a sentence if FSDP was asked for on CPUs, which accelerate silently ignores, else None."""
    is_requested = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    if not is_requested or state.distributed_type != DistributedType.MULTI_CPU:
        return None
    return f"accelerate has FSDP on GPUs alone: launch on processors with {launch_file('cpu.yaml')}"


def check_fsdp(accelerator: Accelerator) -> None:
    """Refuse unsupported settings of FSDP, before anything is loaded.

    Raises:
        UserError: naming the key of the launcher's file.
    """
    if missing := missing_gpus(accelerator):
        raise UserError(missing)
    if not is_sharding(accelerator):
        return
    plugin = accelerator.state.fsdp_plugin
    unsupported = {
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
    for key, (is_set, instead) in unsupported.items():
        if is_set:
            raise UserError(f"{key} in {_FILE} is not for this program: {instead}")
    if accelerator.mixed_precision == "fp16":
        raise UserError("training.precision=fp16 is not supported under FSDP: set it to bf16, fp32 or auto")


def check_shardable(accelerator: Accelerator, settings: Settings) -> None:
    """Refuse settings that need all weights at once, or are untested, under FSDP.

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
    """The sharded copy of a step that is trained; the step itself is empty meanwhile.

    Attributes:
        module: the copy; called as the step is. The optimizer updates its parameters.
    """

    def __init__(self, step: Any, accelerator: Accelerator) -> None:
        """Shard `step`, a module with an attribute `model` and the same parameters on every rank."""
        whole = dict(step.named_parameters())
        memo: dict[int, Any] = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in whole.values()}
        self.module = copy.deepcopy(step, memo)
        _shard(self.module, accelerator)
        self._shards = {whole[name]: shard for name, shard in self.module.named_parameters()}
        self._empty()

    def groups(self, groups: Sequence[Group]) -> list[Group]:
        """Return parameter groups of the step as groups of this rank's shards."""
        return [
            dataclasses.replace(group, parameters={name: self._shards[p] for name, p in group.parameters.items()})
            for group in groups
        ]

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Gather the step's current weights within the block; called on all ranks."""
        self.restore_weights()
        try:
            yield
        finally:
            self._empty()

    def restore_weights(self) -> None:
        """Gather the weights into the step; called on all ranks."""
        for parameter, shard in self._shards.items():
            parameter.data = in_one_piece(shard.detach())

    def _empty(self) -> None:
        """Free the step's weights; its parameters keep their shapes but take no memory."""
        for parameter in self._shards:
            parameter.data = parameter.new_zeros(()).expand(parameter.shape)


def in_one_piece(tensor: Tensor) -> Tensor:
    """Return a tensor, gathered from all ranks if it is sharded; called on all of them."""
    return tensor.full_tensor() if _is_shard(tensor) else tensor  # type: ignore[attr-defined]


def collected(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return whole tensors; if they are sharded, in CPU memory and on the first rank only."""
    if not any(map(_is_shard, tensors.values())):
        return dict(tensors)
    is_first, whole = torch.distributed.get_rank() == 0, {}
    for name, tensor in tensors.items():
        gathered = in_one_piece(tensor.detach())
        if is_first:
            whole[name] = gathered.cpu()
    return whole


def sharded_as(value: Tensor, parameter: Tensor) -> Tensor:
    """Return a value on a parameter's device, and as this rank's shard if the parameter is sharded."""
    value = value.to(parameter.device)
    if not _is_shard(parameter) or _is_shard(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = parameter
    return distribute_tensor(value, sharded.device_mesh, sharded.placements)


def _is_shard(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")  # a DTensor, which is slow to import


def _shard(step: Any, accelerator: Accelerator) -> None:
    """Replace the parameters of a step by this rank's shards, to be gathered layer by layer.

    In bfloat16, output layers and loss terms compute in float32, as in a working copy.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard  # slow, and not needed by a single process
    from transformers.modeling_layers import GradientCheckpointingLayer

    in_float32 = MixedPrecisionPolicy()
    inner = in_float32
    if accelerator.mixed_precision == "bf16":
        inner = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    reshard = accelerator.state.fsdp_plugin.reshard_after_forward
    for layer in output_layers(step.model).values():
        fully_shard(layer, mp_policy=in_float32, reshard_after_forward=reshard)
        if inner is not in_float32:
            enter_in_float32(layer)
    for layer in [module for module in step.model.modules() if isinstance(module, GradientCheckpointingLayer)]:
        layer.register_forward_hook(_without_views)
        fully_shard(layer, mp_policy=inner, reshard_after_forward=reshard)
    fully_shard(step.model, mp_policy=inner, reshard_after_forward=False)
    fully_shard(step, mp_policy=in_float32)


def _without_views(_: nn.Module, __: Any, output: Any) -> Any:
    """Copy tensors that are views: an in-place change of one would drop the hook that FSDP puts on it."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) and leaf._is_view() else leaf, output)
