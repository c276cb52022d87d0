"""How ranks meet that a launcher has started, or started again in the place of some that failed."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
from accelerate.state import PartialState

from nlp_transfer.errors import UserError
from nlp_transfer.machine.launch import is_restarted, rank, world_size
from nlp_transfer.training.zero import unseen

_PATIENCE = timedelta(hours=2)  # of ranks that wait while the first one works alone; NCCL's own are ten minutes


def met() -> PartialState:
    """Return the state of the ranks; where they have not met yet, all have to ask.

    Raises:
        UserError: if they form no group.
    """
    # Accelerate forms a group of CPU processes only when told that there is nothing but CPUs.
    with unseen():
        state = PartialState(cpu=not torch.accelerator.is_available(), timeout=_PATIENCE, **_meeting_place())
    if state.num_processes != world_size():
        raise UserError(
            f"the launcher started {world_size()} processes but they form {state.num_processes} group(s) of their own"
        )
    return state


def _meeting_place() -> dict[str, Any]:
    """Return what `init_process_group` has to be told, where that is anything.

    A launcher keeps one store of addresses as long as it lives (torch 2.13): ranks that are started again would find in
    it those of ranks that are gone, and wait for them. They write their own under another name.
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
