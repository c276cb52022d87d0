"""How the ranks of a launch form a process group, also after the launcher restarted some that failed."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
from accelerate.state import PartialState

from nlp_transfer.errors import UserError
from nlp_transfer.machine.launch import is_restarted, rank, world_size
from nlp_transfer.training.zero import without_deepspeed

_TIMEOUT = timedelta(hours=2)  # timeout of ranks that wait while the first works alone; NCCL's default is ten minutes


def join_ranks() -> PartialState:
    """Return accelerate's state of the ranks, forming the process group at the first call, which all have to make.

    Raises:
        UserError: if the ranks form no group.
    """
    # Accelerate forms a group of CPU processes only if cpu=True.
    with without_deepspeed():
        state = PartialState(cpu=not torch.accelerator.is_available(), timeout=_TIMEOUT, **_rendezvous())
    if state.num_processes != world_size():
        raise UserError(
            f"the launcher started {world_size()} processes but they form {state.num_processes} group(s) of their own"
        )
    return state


def _rendezvous() -> dict[str, Any]:
    """Return extra arguments of `init_process_group` for restarted ranks.

    A launcher keeps one store of addresses for its whole life (torch 2.13). Restarted ranks would find the addresses of
    ranks that are gone, and wait for them; a prefix separates their own.
    """
    if not is_restarted() or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    attempt, address = os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ["MASTER_ADDR"]
    store = torch.distributed.TCPStore(address, int(os.environ["MASTER_PORT"]), world_size(), is_master=False)
    return {
        "store": torch.distributed.PrefixStore(f"start {attempt}", store),
        "rank": rank(),
        "world_size": world_size(),
    }
