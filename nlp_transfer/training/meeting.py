"""Where ranks meet that a launcher has started again in the place of some that failed."""

from __future__ import annotations

import os
from typing import Any

import torch

from nlp_transfer.launch import is_restarted, rank, world_size


def meeting_place() -> dict[str, Any]:
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
