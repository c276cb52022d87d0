"""FSDP2 on CPUs: accelerate shards weights on GPUs only, and ignores the setting elsewhere.

The path that accelerate takes on GPUs if `ACCELERATE_USE_FSDP` is set is taken here for a group of CPU processes;
everything else is the code of accelerate and torch.
"""

from __future__ import annotations

import os
from typing import Any

import torch.distributed.fsdp  # noqa: F401  # takes time: once, for all that are forked
from accelerate import DistributedType
from accelerate.state import AcceleratorState, PartialState

# What `accelerate launch --config_file conf/launch/fsdp2.yaml` sets; a test compares them.
ENVIRONMENT = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}


def force() -> None:
    """Let this process share weights out, if it is one of several."""
    os.environ.update(ENVIRONMENT)
    well = AcceleratorState.__init__

    def forcing(self: AcceleratorState, *arguments: Any, **named: Any) -> None:
        well(self, *arguments, **named)
        if self.distributed_type == DistributedType.MULTI_CPU:
            plugin = named["fsdp_plugin"]
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugin
            if self._mixed_precision != "no":
                plugin.set_mixed_precision(self._mixed_precision)
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = forcing  # type: ignore[method-assign]
