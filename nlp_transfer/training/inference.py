"""A trained or frozen model over a split, on all ranks: logits or features of every example, exactly once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from nlp_transfer.data.batches import Batch, Columns, Padding, collate, evaluation_batches
from nlp_transfer.encoder.classifier import forward
from nlp_transfer.errors import UserError
from nlp_transfer.training.memory import tried


def to_device(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """Return the arrays of a batch as tensors on a device."""
    return {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in batch.items()}


@torch.inference_mode()
def run(
    accelerator: Accelerator,
    model: nn.Module,
    columns: Columns,
    *,
    padding: Padding,
    most_tokens: int,
    want: str = "logits",
) -> np.ndarray:
    """Return one row an example, float32 (examples, outputs or width), the same on every rank.

    Forward passes are formed over the whole split and dealt to the ranks, so that a row does not depend on how many
    ranks there are. Every example is counted; a missing or doubled one is our own mistake.

    Args:
        accelerator: gives the device, the precision and the ranks.
        model: the classifier model, unwrapped.
        columns: the split.
        padding: how rows are made equal.
        most_tokens: padded tokens in one forward pass.
        want: "logits" or "features" (what enters the output layer).

    Raises:
        UserError: where memory does not suffice for a single example, or the model's answer is not a finite number.
    """
    was_training = [module for module in model.modules() if module.training]
    model.eval()
    mine = evaluation_batches(columns.tokens, most_tokens=most_tokens)[
        accelerator.process_index :: accelerator.num_processes
    ]
    rows = _forward_all(accelerator, model, columns, mine, padding, want)
    for module in was_training:
        module.training = True
    values = _gather(accelerator, rows, len(columns))
    broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(broken):  # or every figure would be of labels picked by chance
        raise UserError(
            f"the model's {want} are infinite or not a number for {len(broken):,} of {len(values):,} rows (of these "
            f"the {broken[0] + 1:,}. first); set training.precision=fp32; if that changes nothing, the weights are "
            "damaged"
        )
    return values


def _forward_all(
    accelerator: Accelerator,
    model: nn.Module,
    columns: Columns,
    batches: Iterable[np.ndarray],
    padding: Padding,
    want: str,
) -> dict[int, np.ndarray]:
    def forwarded(examples: np.ndarray) -> np.ndarray:
        batch = to_device(collate(columns, examples, padding=padding), accelerator.device)
        with accelerator.autocast():
            outputs = forward(model, batch)
        return getattr(outputs, want).float().cpu().numpy()

    rows: dict[int, np.ndarray] = {}
    waiting = deque(batches)
    while waiting:
        examples = waiting.popleft()
        values = tried(partial(forwarded, examples))
        if values is not None:
            rows.update(zip(examples.tolist(), values, strict=True))
        elif len(examples) > 1:
            # The batches are sorted by length and equally large: those that follow would fail as this one did.
            waiting = deque(half for each in (examples, *waiting) for half in np.array_split(each, 2) if len(half))
        else:
            raise UserError(
                f"memory does not suffice for a text of {columns.tokens.longest[examples[0]]:,} tokens; set "
                "tokens.long=chunk or tokens.max_length=..."
            )
    return rows


def _gather(accelerator: Accelerator, rows: dict[int, np.ndarray], examples: int) -> np.ndarray:
    """Put the ranks' rows together by example; sums of a value and zeros are exact."""
    width = max((len(row) for row in rows.values()), default=0)
    widths = accelerator.gather(torch.tensor([width], device=accelerator.device))
    full = torch.zeros(examples, int(widths.max()), device=accelerator.device)
    count = torch.zeros(examples, device=accelerator.device)
    if rows:
        index = torch.tensor(list(rows), device=accelerator.device)
        full[index] = torch.from_numpy(np.stack(list(rows.values()))).to(accelerator.device)
        count[index] = 1
    if accelerator.num_processes > 1:
        full, count = accelerator.reduce(full, "sum"), accelerator.reduce(count, "sum")
    assert bool((count == 1).all()), "every example must be evaluated exactly once"
    return full.cpu().numpy()
