"""DeepSpeed on CPUs: the launcher's variables, and no compilation of a shared-memory sum."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

# What `accelerate launch --config_file conf/launch/deepspeed.yaml` sets; a test compares them.
ENVIRONMENT = {
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1",
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "none",
    "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "none",
}
IS_INSTALLED = importlib.util.find_spec("deepspeed") is not None


def force() -> None:
    """Let this process share moments out, if it is one of several."""
    os.environ.update(ENVIRONMENT)
    backend: Any = importlib.import_module("deepspeed.comm.torch")  # whose name there is torch's own
    backend.build_shm_op = lambda: None
