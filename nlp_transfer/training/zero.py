"""AdamW's moments shared out among the ranks by DeepSpeed (ZeRO stage 1), weights and gradients whole on each.

Of the 16 bytes that a parameter takes while it learns, 8 are moments. Each rank keeps and updates its share of them,
and then the ranks give each other the new weights (Rajbhandari et al. 2020, arXiv 1910.02054). Passes are those of a
single process: DeepSpeed sees the parameters alone, and sums their gradients over the ranks once a step. accelerate's
own use of it is passed by: there a backward pass takes the step as well, before anybody knows whether it is finite, and
a step is so many batches of one size.
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

_ASKED = "ACCELERATE_USE_DEEPSPEED"
_FILE = "the file of `accelerate launch --config_file`"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_BUCKET = 1 << 24  # values that ranks sum or gather at once, which are copied for it


def shares_moments(accelerator: Accelerator) -> bool:
    """Return whether the launcher asked for DeepSpeed; a single process has nothing to share out."""
    return _is_asked() and accelerator.num_processes > 1


def _is_asked() -> bool:
    return os.environ.get(_ASKED, "").lower() == "true"


@contextmanager
def unseen() -> Iterator[None]:
    """Let accelerate form ranks as it does for DDP, for the time of the block."""
    asked = os.environ.pop(_ASKED, None)
    try:
        yield
    finally:
        if asked is not None:
            os.environ[_ASKED] = asked


def check_asked(accelerator: Accelerator) -> None:
    """Refuse what cannot be had of DeepSpeed, before anything is loaded.

    Raises:
        UserError: naming the key of the launcher's file and what to do instead, or how to install DeepSpeed.
    """
    if not _is_asked():
        return
    fsdp2 = launch_file("fsdp2.yaml")
    stages = {
        "0": f"launch with {launch_file('ddp.yaml')}, which is the same",
        "2": f"launch with {fsdp2} and fsdp_reshard_after_forward: false, which shares gradients out too",
        "3": f"launch with {fsdp2}, which shares weights out too",
    }
    own = "take it out: the batch, the optimizer, its rates and clipping are settings of the run (group training)"
    told = {key: os.environ.get(variable, "") for key, variable in _VARIABLES.items()}
    stage = told["zero_stage"] or "2"  # which is accelerate's own
    asked = {
        "deepspeed_config_file": (bool(told["deepspeed_config_file"]), own),
        f"zero_stage: {stage}": (stage != "1", stages.get(stage, "set it to 1")),
        "gradient_accumulation_steps": (told["gradient_accumulation_steps"] not in ("", "1"), own),
        "gradient_clipping": (told["gradient_clipping"] not in ("", "none"), own),
    }
    for key in ("offload_optimizer_device", "offload_param_device"):
        asked[key] = (told[key] not in ("", "none"), "set it to none, or share more out with " + fsdp2)
    for key, (given, instead) in asked.items():
        if given:
            raise UserError(f"{key} in {_FILE} is not for this program: {instead}")
    if accelerator.mixed_precision == "fp16":
        raise UserError("training.precision=fp16 cannot be had under DeepSpeed: set it to bf16, fp32 or auto")
    if shares_moments(accelerator) and find_spec("deepspeed") is None:
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
    """An AdamW whose moments the ranks share out.

    Attributes:
        param_groups: of the AdamW; their rates are those of the next step. The tensors in them are this rank's shares.
        state: of the AdamW.
        defaults: of the AdamW.
    """

    def __init__(self, optimizer: torch.optim.AdamW, largest_norm: float, working: WorkingCopy | None) -> None:
        """Take over the parameters of an AdamW, in float32 and the same on every rank. All ranks do it.

        Args:
            optimizer: that has not stepped yet.
            largest_norm: of a gradient; 0: it is not scaled.
            working: the copy in which forward and backward passes run, or None.

        Raises:
            UserError: if DeepSpeed cannot be imported.
        """
        self._members: list[list[nn.Parameter]] = [list(group["params"]) for group in optimizer.param_groups]
        self._working = working
        self._engine, self._shared = _initialised(optimizer, nn.ParameterList(self._parameters), largest_norm)
        # Each group has been put into one tensor, of which its parameters are parts.
        self._places = {p: slice(p.storage_offset(), p.storage_offset() + p.numel()) for p in self._parameters}
        self.param_groups, self.state, self.defaults = optimizer.param_groups, optimizer.state, optimizer.defaults

    @property
    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for members in self._members for parameter in members]

    def clip(self) -> float:
        """Average the gradients over the ranks; return their norm, to which `step` will scale them. All ranks do it."""
        if self._working:
            self._working.hand_over()
        for group, members in zip(self.param_groups, self._members, strict=True):
            if group["lr"] == 0:  # not trained yet: it must not use up the norm that others are clipped to
                _forget(members)
        self._engine.allreduce_gradients()
        norm = float(self._shared.scaled_global_norm())
        return norm if norm >= 0 else math.inf  # DeepSpeed has -1 for what is not finite

    def step(self, closure: None = None) -> None:
        """Update the weights on every rank from what `clip` has averaged. All ranks do it."""
        self._shared.step()
        for group in self.param_groups:
            if group["lr"] == 0:  # its moments are those of no gradient, and have not begun
                for share in group["params"]:
                    self.state[share]["step"].zero_()
        if self._working:
            self._working.refresh()

    def zero_grad(self) -> None:
        """Forget the gradients; what `clip` has averaged is overwritten by the next."""
        _forget(self._parameters)

    def moments(self) -> dict[nn.Parameter, dict[str, Tensor]]:
        """Return the whole state of every parameter that was updated, on the first rank's processor; nothing elsewhere.

        All ranks do it.
        """
        found: dict[nn.Parameter, dict[str, Tensor]] = {}
        for share, members in self._shares():
            state = self.state.get(share, {})
            if not state or not state["step"]:
                continue
            for key in _MOMENTS:
                whole = _on_the_first(state[key])
                for parameter in members if len(whole) else ():
                    own = found.setdefault(parameter, {"step": state["step"].to("cpu", copy=True)})
                    own[key] = whole[self._places[parameter]].view(parameter.shape)
        return found

    def go_on(self, moments: Mapping[nn.Parameter, Mapping[str, Tensor]]) -> None:
        """Take over the weights as they are now, and what `moments` returned on the first rank."""
        for share, members in self._shares():
            share.data.copy_(self._own_of(share, {parameter: parameter.detach() for parameter in members}))
            if members[0] in moments:
                self.state[share] = {"step": moments[members[0]]["step"].to(share.device, copy=True)}
                for key in _MOMENTS:
                    whole = {parameter: moments[parameter][key] for parameter in members}
                    self.state[share][key] = self._own_of(share, whole).to(share.device, copy=True)

    def leave(self) -> None:
        """Let the parameters be as they were, in memory of their own."""
        self._engine.destroy()
        for parameter in self._parameters:
            parameter.data = parameter.data.clone()

    def _shares(self) -> Iterator[tuple[Tensor, list[nn.Parameter]]]:
        """Yield this rank's share of every group, with the parameters of which it has some."""
        for group, members in zip(self.param_groups, self._members, strict=True):
            (share,) = group["params"]
            yield share, members

    def _own_of(self, share: Tensor, values: Mapping[nn.Parameter, Tensor]) -> Tensor:
        """Return this rank's share of values, one of every parameter of a group."""
        world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
        whole = next(iter(values.values())).new_zeros(world, share.numel())
        for parameter, value in values.items():
            whole.view(-1)[self._places[parameter]] = value.flatten()
        return whole[rank]


def _on_the_first(share: Tensor) -> Tensor:
    """Return the shares of all ranks, one behind the other, on the first rank's processor; nothing elsewhere.

    They come in pieces, so that no device needs room for more than one beside what it trains. All ranks do it.
    """
    world = torch.distributed.get_world_size()
    rows = world if torch.distributed.get_rank() == 0 else 0
    whole, start = torch.empty(rows, share.numel(), dtype=share.dtype), 0
    for piece in share.split(max(_BUCKET // world, 1)):
        pieces = piece.new_empty(rows, piece.numel())
        torch.distributed.gather(piece, list(pieces) or None)
        whole[:, start : start + piece.numel()] = pieces
        start += piece.numel()
    return whole.view(-1)


def _forget(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None


def _initialised(optimizer: torch.optim.AdamW, parameters: nn.ParameterList, largest_norm: float) -> tuple[Any, Any]:
    """Return DeepSpeed's engine and optimizer. It is given no model: nothing runs in its engine, and no hook of it."""
    config = {
        "train_micro_batch_size_per_gpu": 1,  # demanded, and of no effect
        "gradient_clipping": largest_norm,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": 1,
            "contiguous_gradients": False,  # or hooks of it would wait for passes in its engine
            "overlap_comm": False,
            "reduce_bucket_size": _BUCKET,
        },
    }
    with contextlib.redirect_stdout(sys.stderr):  # it tells of itself where the result of a run is to be
        try:
            import deepspeed
        except Exception as error:  # it looks for compilers and devices meanwhile
            kind, ddp = type(error).__name__, launch_file("ddp.yaml")
            raise UserError(
                f"DeepSpeed cannot be imported ({kind}: {first_line(error)}): mend that, or launch with {ddp}"
            ) from error
        engine, shared, *_ = deepspeed.initialize(
            model=parameters, optimizer=optimizer, config=config, dist_init_required=False
        )
    return engine, shared
