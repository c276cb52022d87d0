"""AdamW's moments sharded over the ranks by DeepSpeed (ZeRO stage 1), with weights and gradients whole on each rank.

Of the 16 bytes that a parameter takes in training, 8 are moments. Each rank keeps and updates its shard of them, and
then the ranks exchange the new weights (Rajbhandari et al. 2020, arXiv 1910.02054). Forward and backward passes are
those of a single process: DeepSpeed sees the parameters only, and reduces their gradients once a step. accelerate's own
DeepSpeed integration is bypassed: its backward pass includes the optimizer step, before one can check that the gradient
is finite, and its steps have a fixed number of batches of one size.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from nlp_transfer.composing.shipped import launch_file
from nlp_transfer.errors import UserError, first_line
from nlp_transfer.training.bfloat16 import WorkingCopy

_USE_DEEPSPEED = "ACCELERATE_USE_DEEPSPEED"
_FILE = "the file of `accelerate launch --config_file`"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_BUCKET = 1 << 24  # elements that ranks reduce or gather at a time, in a copy


def shards_moments(accelerator: Accelerator) -> bool:
    """Return whether the launcher asked for DeepSpeed and there are several processes."""
    return _is_requested() and accelerator.num_processes > 1


def _is_requested() -> bool:
    return os.environ.get(_USE_DEEPSPEED, "").lower() == "true"


@contextmanager
def without_deepspeed() -> Iterator[None]:
    """Hide the launcher's request for DeepSpeed from accelerate within the block, so that it acts as for DDP."""
    requested = os.environ.pop(_USE_DEEPSPEED, None)
    try:
        yield
    finally:
        if requested is not None:
            os.environ[_USE_DEEPSPEED] = requested


def check_deepspeed(accelerator: Accelerator) -> None:
    """Refuse unsupported settings of DeepSpeed, before anything is loaded.

    Raises:
        UserError: naming the key of the launcher's file and what to do instead, or how to install DeepSpeed.
    """
    if not _is_requested():
        return
    fsdp2 = launch_file("fsdp2.yaml")
    stages = {
        "0": f"launch with {launch_file('ddp.yaml')}, which is the same",
        "2": f"launch with {fsdp2} and fsdp_reshard_after_forward: false, which shards gradients too",
        "3": f"launch with {fsdp2}, which shards weights too",
    }
    remove = "take it out: the batch, the optimizer, its rates and clipping are settings of the run (group training)"
    given = {key: os.environ.get(variable, "") for key, variable in _VARIABLES.items()}
    stage = given["zero_stage"] or "2"  # accelerate's default
    unsupported = {
        "deepspeed_config_file": (bool(given["deepspeed_config_file"]), remove),
        f"zero_stage: {stage}": (stage != "1", stages.get(stage, "set it to 1")),
        "gradient_accumulation_steps": (given["gradient_accumulation_steps"] not in ("", "1"), remove),
        "gradient_clipping": (given["gradient_clipping"] not in ("", "none"), remove),
    }
    for key in ("offload_optimizer_device", "offload_param_device"):
        unsupported[key] = (given[key] not in ("", "none"), "set it to none, or shard more with " + fsdp2)
    for key, (is_set, instead) in unsupported.items():
        if is_set:
            raise UserError(f"{key} in {_FILE} is not for this program: {instead}")
    if accelerator.mixed_precision == "fp16":
        raise UserError("training.precision=fp16 is not supported under DeepSpeed: set it to bf16, fp32 or auto")
    if shards_moments(accelerator) and find_spec("deepspeed") is None:
        raise UserError('DeepSpeed is not installed: pip install "nlp-transfer[deepspeed]"')


_VARIABLES = {
    "deepspeed_config_file": "ACCELERATE_DEEPSPEED_CONFIG_FILE",
    "zero_stage": "ACCELERATE_DEEPSPEED_ZERO_STAGE",
    "gradient_accumulation_steps": "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
    "gradient_clipping": "ACCELERATE_GRADIENT_CLIPPING",
    "offload_optimizer_device": "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE",
    "offload_param_device": "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE",
}


class ZeroAdamW:
    """An AdamW whose moments are sharded over the ranks.

    Attributes:
        param_groups: of the AdamW, with the learning rates of the next step; their tensors are this rank's shards.
        state: of the AdamW.
        defaults: of the AdamW.
    """

    def __init__(self, optimizer: torch.optim.AdamW, max_norm: float, working: WorkingCopy | None) -> None:
        """Shard an AdamW whose parameters are in float32 and the same on every rank; called on all ranks.

        Args:
            optimizer: an AdamW that has not stepped yet.
            max_norm: to which gradients are clipped; 0: no clipping.
            working: the copy in which passes run, or None.

        Raises:
            UserError: if DeepSpeed cannot be imported.
        """
        self._members: list[list[nn.Parameter]] = [list(group["params"]) for group in optimizer.param_groups]
        self._working = working
        self._engine, self._shared = _initialised(optimizer, nn.ParameterList(self._parameters), max_norm)
        # DeepSpeed flattened each group into one tensor, of which the parameters are views.
        self._places = {p: slice(p.storage_offset(), p.storage_offset() + p.numel()) for p in self._parameters}
        self.param_groups, self.state, self.defaults = optimizer.param_groups, optimizer.state, optimizer.defaults

    @property
    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for members in self._members for parameter in members]

    def clip(self) -> float:
        """Average the gradients over the ranks and return their norm; `step` clips them. Called on all ranks."""
        if self._working:
            self._working.hand_over()
        for group, members in zip(self.param_groups, self._members, strict=True):
            if group["lr"] == 0:  # not trained yet: it must not add to the gradient norm
                _clear_gradients(members)
        self._engine.allreduce_gradients()
        norm = float(self._shared.scaled_global_norm())
        return norm if norm >= 0 else math.inf  # DeepSpeed returns -1 for a norm that is not finite

    def step(self, closure: None = None) -> None:
        """Update the weights from the gradients that `clip` has averaged; called on all ranks."""
        self._shared.step()
        for group in self.param_groups:
            if group["lr"] == 0:  # its moments have not started
                for shard in group["params"]:
                    self.state[shard]["step"].zero_()
        if self._working:
            self._working.refresh()

    def zero_grad(self) -> None:
        """Clear the gradients; the averaged ones are overwritten by the next `clip`."""
        _clear_gradients(self._parameters)

    def moments(self) -> dict[nn.Parameter, dict[str, Tensor]]:
        """Return the whole state of every parameter that was updated, in CPU memory of the first rank, else nothing.

        Called on all ranks.
        """
        moments: dict[nn.Parameter, dict[str, Tensor]] = {}
        for shard, members in self._shards():
            state = self.state.get(shard, {})
            if not state or not state["step"]:
                continue
            for key in _MOMENTS:
                whole = _gather_on_first(state[key])
                for parameter in members if len(whole) else ():
                    values = moments.setdefault(parameter, {"step": state["step"].to("cpu", copy=True)})
                    values[key] = whole[self._places[parameter]].view(parameter.shape)
        return moments

    def resume(self, moments: Mapping[nn.Parameter, Mapping[str, Tensor]]) -> None:
        """Take over the current weights, and the moments that `moments` returned on the first rank."""
        for shard, members in self._shards():
            shard.data.copy_(self._shard_of(shard, {parameter: parameter.detach() for parameter in members}))
            if members[0] in moments:
                self.state[shard] = {"step": moments[members[0]]["step"].to(shard.device, copy=True)}
                for key in _MOMENTS:
                    whole = {parameter: moments[parameter][key] for parameter in members}
                    self.state[shard][key] = self._shard_of(shard, whole).to(shard.device, copy=True)

    def release(self) -> None:
        """Free DeepSpeed's engine, and give each parameter memory of its own again."""
        self._engine.destroy()
        for parameter in self._parameters:
            parameter.data = parameter.data.clone()

    def _shards(self) -> Iterator[tuple[Tensor, list[nn.Parameter]]]:
        """Yield this rank's shard of every group, with the group's parameters."""
        for group, members in zip(self.param_groups, self._members, strict=True):
            (shard,) = group["params"]
            yield shard, members

    def _shard_of(self, shard: Tensor, values: Mapping[nn.Parameter, Tensor]) -> Tensor:
        """Return this rank's shard of the values of a group's parameters, as large as `shard`."""
        world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
        whole = next(iter(values.values())).new_zeros(world, shard.numel())
        for parameter, value in values.items():
            whole.view(-1)[self._places[parameter]] = value.flatten()
        return whole[rank]


def _gather_on_first(shard: Tensor) -> Tensor:
    """Return the shards of all ranks, concatenated in CPU memory of the first rank; empty on others.

    They are gathered in pieces, so that a device needs room for one piece only. Called on all ranks.
    """
    world = torch.distributed.get_world_size()
    rows = world if torch.distributed.get_rank() == 0 else 0
    whole, start = torch.empty(rows, shard.numel(), dtype=shard.dtype), 0
    for piece in shard.split(max(_BUCKET // world, 1)):
        pieces = piece.new_empty(rows, piece.numel())
        torch.distributed.gather(piece, list(pieces) or None)
        whole[:, start : start + piece.numel()] = pieces
        start += piece.numel()
    return whole.view(-1)


def _clear_gradients(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None


def _initialised(optimizer: torch.optim.AdamW, parameters: nn.ParameterList, max_norm: float) -> tuple[Any, Any]:
    """Return DeepSpeed's engine and optimizer, made without a model: passes do not run in the engine or its hooks."""
    config = {
        "train_micro_batch_size_per_gpu": 1,  # required, but without effect
        "gradient_clipping": max_norm,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": 1,
            "contiguous_gradients": False,  # else its hooks would wait for passes in its engine
            "overlap_comm": False,
            "reduce_bucket_size": _BUCKET,
        },
    }
    with contextlib.redirect_stdout(sys.stderr):  # DeepSpeed logs to standard output, which is for the run's result
        try:
            import deepspeed
        except Exception as error:  # its import looks for compilers and devices, and fails in many ways
            kind, ddp = type(error).__name__, launch_file("ddp.yaml")
            raise UserError(
                f"DeepSpeed cannot be imported ({kind}: {first_line(error)}): mend that, or launch with {ddp}"
            ) from error
        engine, shared, *_ = deepspeed.initialize(
            model=parameters, optimizer=optimizer, config=config, dist_init_required=False
        )
    return engine, shared
