"""Diagnosis of the machine and the launch: versions, devices, ranks, and common problems with them."""

from __future__ import annotations

import json
import os
from typing import Any

from nlp_transfer.errors import UserError
from nlp_transfer.machine.importing import permanent_imports
from nlp_transfer.machine.launch import is_main, missing_processes


def examine() -> dict[str, Any]:
    """Return versions, devices, precision and ranks as plain values, with advice in `notes`.

    Raises:
        UserError: if the launched ranks cannot form a process group.
    """
    with permanent_imports():
        import torch

        from nlp_transfer.config import compose
        from nlp_transfer.encoder.source import locate
        from nlp_transfer.machine.versions import environment
        from nlp_transfer.training.device import multiplies_bf16_fast
        from nlp_transfer.training.meeting import join_ranks
        from nlp_transfer.training.sharding import missing_gpus

    state = join_ranks()
    notes = [missing for missing in (missing_processes(), missing_gpus(state)) if missing]
    try:
        source = locate(compose().encoder)
        encoder = f"{source.name} ({source.origin})"
    except UserError as error:
        encoder = "not available"
        notes.append(str(error))
    if torch.version.cuda and not torch.cuda.is_available():
        notes.append("torch was built for CUDA but sees no GPU: everything runs on the CPU")
    return {
        **environment(),
        "device": str(state.device),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cpu_threads": torch.get_num_threads(),
        "precision": "bf16" if multiplies_bf16_fast(state.device) else "fp32",
        "processes": state.num_processes,
        "default_encoder": encoder,
        "hub_offline": os.environ.get("HF_HUB_OFFLINE", "") in ("1", "true", "True"),
        "notes": notes,
    }


def show() -> int:
    """Print the diagnosis: a table at a terminal, JSON elsewhere."""
    from rich.console import Console
    from rich.table import Table

    state = examine()
    if not is_main():
        return 0
    console = Console(highlight=False)
    if not console.is_terminal:
        print(json.dumps(state, ensure_ascii=False))  # noqa: T201
        return 0
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in state.items():
        if name != "notes":
            table.add_row(name.replace("_", " "), ", ".join(value) or "none" if isinstance(value, list) else str(value))
    console.print(table)
    for note in state["notes"]:
        console.print(f"• {note}", style="yellow", markup=False)
    return 0
