"""One Accelerator a run: ranks, device, precision, trackers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import AutocastKwargs, broadcast_object_list
from torch import Tensor, nn

from nlp_transfer.composing.shipped import launch_file
from nlp_transfer.errors import UserError
from nlp_transfer.settings import TrackingSettings
from nlp_transfer.training.bfloat16 import computes_in_bfloat16, why_not_in_bfloat16
from nlp_transfer.training.meeting import met
from nlp_transfer.training.sharding import check_launched
from nlp_transfer.training.zero import check_asked, unseen

_FASTER = 1.5  # how much faster bfloat16 must be; on CPUs it is about 2, 7 or 0.1 times as fast


def make_accelerator(
    precision: str, tracking: TrackingSettings, folder: Path, *, autocast: bool = False
) -> Accelerator:
    """Return a fresh Accelerator.

    Args:
        precision: fp32, bf16, fp16, or auto: what is measured to be fast.
        tracking: which trackers are told of the run.
        folder: of the run.
        autocast: whether bf16 means autocast, also where copies of the model would be made.

    Raises:
        UserError: for a precision that cannot be had here, or a way to share a model between ranks that was not tried.
    """
    # Accelerate keeps its state for the life of the process; a second run in it may want another precision.
    # Where it shares weights out it forgets how ranks are told apart, and would not do so once more.
    sharding = PartialState._shared_state.get("distributed_type") == DistributedType.FSDP
    AcceleratorState._reset_state(reset_partial_state=sharding)
    GradientState._reset_state()
    state = met()
    device = state.device
    if state.distributed_type == DistributedType.MEGATRON_LM:
        raise UserError(
            "Megatron-LM is untried here; launch with `accelerate launch --multi_gpu`, or where "
            f"memory does not suffice for that, with FSDP2 ({launch_file('fsdp2.yaml')})"
        )
    if precision == "fp16" and device.type == "cpu":
        raise UserError("training.precision=fp16 needs a GPU; on a CPU use bf16, fp32 or auto")
    chosen = _agreed("bf16" if multiplies_bf16_fast(device) else "fp32") if precision == "auto" else precision
    try:
        with unseen():
            accelerator = Accelerator(
                cpu=not torch.accelerator.is_available(),
                mixed_precision="no" if chosen == "fp32" else chosen,
                log_with=list(tracking.trackers) or None,
                project_dir=folder,
                kwargs_handlers=[AutocastKwargs()] if autocast else None,
            )
    except (ValueError, ImportError) as error:
        raise UserError(f"training.precision={precision}: {error}") from error
    check_launched(accelerator)
    check_asked(accelerator)
    return accelerator


def fitting(
    accelerator: Accelerator,
    model: nn.Module,
    rows: Mapping[str, Tensor],
    precision: str,
    tracking: TrackingSettings,
    folder: Path,
) -> tuple[Accelerator, str | None]:
    """Return the accelerator, or what suits a model that cannot run in bfloat16: on a GPU autocast, else float32.

    Args:
        accelerator: of `make_accelerator`.
        model: of a classifier, on its device.
        rows: to try it on.
        precision: that was asked for.
        tracking: as for `make_accelerator`.
        folder: as for `make_accelerator`.

    Returns:
        With why it is another one, or None.

    Raises:
        UserError: if bfloat16 was demanded and cannot be had.
    """
    if not computes_in_bfloat16(accelerator):
        return accelerator, None
    why = _agreed(why_not_in_bfloat16(model, rows))
    if why is None:
        return accelerator, None
    kind = accelerator.device.type
    if kind != "cpu" and _agreed(why_not_in_bfloat16(model, rows, autocast=True)) is None:
        other = make_accelerator("bf16", tracking, folder, autocast=True)
        return other, f"bfloat16 under autocast: the encoder cannot run in it alone ({why})"
    if precision != "auto":
        raise UserError(
            f"training.precision=bf16: this encoder cannot on this device, {kind} ({why}); set it to auto or fp32"
        )
    return make_accelerator("fp32", tracking, folder), f"float32: the encoder cannot run in bfloat16 ({why})"


def _agreed(found: str | None) -> str | None:
    """Return what the first rank has found."""
    agreed: str | None = broadcast_object_list([found])[0]
    return agreed


def multiplies_bf16_fast(device: torch.device) -> bool:
    """Return whether matrix products in bf16 are faster than in fp32 on this device (AMX tiles, tensor cores)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    has_tiles = getattr(torch.cpu, "_is_amx_tile_supported", None)  # not public in every torch we accept
    if has_tiles and has_tiles():
        return True
    # Where bfloat16 is emulated a large product takes a tenth of a second; a small one tells as much.
    return _multiplies(128, 0.2) and _multiplies(384, _FASTER)


def _multiplies(width: int, times: float) -> bool:
    """Return whether products of square matrices are more than so many times as fast in bfloat16 as in float32."""
    operands = {kind: torch.ones(width, width, dtype=kind) for kind in (torch.float32, torch.bfloat16)}
    best = dict.fromkeys(operands, float("inf"))
    for _ in range(9):  # in turn, and the best of each: other work on the machine slows both
        for kind, matrix in operands.items():
            begun = time.process_time()
            matrix @ matrix
            best[kind] = min(best[kind], time.process_time() - begun)
    return best[torch.float32] > times * best[torch.bfloat16]
