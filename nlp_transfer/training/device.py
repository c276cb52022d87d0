"""The Accelerator of a run: ranks, device, precision and trackers."""

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
from nlp_transfer.training.meeting import join_ranks
from nlp_transfer.training.sharding import check_fsdp
from nlp_transfer.training.zero import check_deepspeed, without_deepspeed

_FASTER = 1.5  # least speed-up for which bfloat16 is used; CPUs have about 2, 7 or 0.1


def make_accelerator(
    precision: str, tracking: TrackingSettings, folder: Path, *, autocast: bool = False
) -> Accelerator:
    """Return a fresh Accelerator.

    Args:
        precision: fp32, bf16, fp16, or auto: bf16 where it is measured to be faster.
        tracking: the trackers to log to.
        folder: of the run.
        autocast: whether bf16 means autocast even where bfloat16 copies would be used.

    Raises:
        UserError: for a precision or a kind of model parallelism that is not supported here.
    """
    # Accelerate keeps its state for the life of the process, but a second run may want another precision. After a run
    # with FSDP the state of the ranks has to be reset as well, or FSDP is not set up again.
    sharding = PartialState._shared_state.get("distributed_type") == DistributedType.FSDP
    AcceleratorState._reset_state(reset_partial_state=sharding)
    GradientState._reset_state()
    state = join_ranks()
    device = state.device
    if state.distributed_type == DistributedType.MEGATRON_LM:
        raise UserError(
            "Megatron-LM is untried here; launch with `accelerate launch --multi_gpu`, or where "
            f"memory does not suffice for that, with FSDP2 ({launch_file('fsdp2.yaml')})"
        )
    if precision == "fp16" and device.type == "cpu":
        raise UserError("training.precision=fp16 needs a GPU; on a CPU use bf16, fp32 or auto")
    chosen = precision
    if precision == "auto":
        chosen = str(_of_first_rank("bf16" if multiplies_bf16_fast(device) else "fp32"))
    try:
        with without_deepspeed():
            accelerator = Accelerator(
                cpu=not torch.accelerator.is_available(),
                mixed_precision="no" if chosen == "fp32" else chosen,
                log_with=list(tracking.trackers) or None,
                project_dir=folder,
                kwargs_handlers=[AutocastKwargs()] if autocast else None,
            )
    except (ValueError, ImportError) as error:
        raise UserError(f"training.precision={precision}: {error}") from error
    check_fsdp(accelerator)
    check_deepspeed(accelerator)
    return accelerator


def with_supported_precision(
    accelerator: Accelerator,
    model: nn.Module,
    rows: Mapping[str, Tensor],
    precision: str,
    tracking: TrackingSettings,
    folder: Path,
) -> tuple[Accelerator, str | None]:
    """Return the accelerator, or another if the model cannot run in bfloat16: with autocast on a GPU, else in float32.

    Args:
        accelerator: of `make_accelerator`.
        model: a classifier's model, on its device.
        rows: a batch to try it on.
        precision: as for `make_accelerator`.
        tracking: as for `make_accelerator`.
        folder: as for `make_accelerator`.

    Returns:
        The accelerator, and why it is another one, or None.

    Raises:
        UserError: if precision is "bf16" and the model cannot run in it.
    """
    if not computes_in_bfloat16(accelerator):
        return accelerator, None
    why = _of_first_rank(why_not_in_bfloat16(model, rows))
    if why is None:
        return accelerator, None
    kind = accelerator.device.type
    if kind != "cpu" and _of_first_rank(why_not_in_bfloat16(model, rows, autocast=True)) is None:
        with_autocast = make_accelerator("bf16", tracking, folder, autocast=True)
        return with_autocast, f"bfloat16 under autocast: the encoder cannot run in it alone ({why})"
    if precision != "auto":
        raise UserError(
            f"training.precision=bf16: this encoder cannot on this device, {kind} ({why}); set it to auto or fp32"
        )
    return make_accelerator("fp32", tracking, folder), f"float32: the encoder cannot run in bfloat16 ({why})"


def _of_first_rank(value: str | None) -> str | None:
    """Return the value that the first rank has."""
    first: str | None = broadcast_object_list([value])[0]
    return first


def multiplies_bf16_fast(device: torch.device) -> bool:
    """Return whether matrix products in bf16 are faster than in fp32 on this device (AMX tiles, tensor cores)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    has_tiles = getattr(torch.cpu, "_is_amx_tile_supported", None)  # not public in every torch we accept
    if has_tiles and has_tiles():
        return True
    # Where bfloat16 is emulated, a large product takes a tenth of a second, and a small one shows it as well.
    return _is_faster_in_bf16(128, 0.2) and _is_faster_in_bf16(384, _FASTER)


def _is_faster_in_bf16(width: int, factor: float) -> bool:
    """Return whether products of square matrices are more than `factor` times as fast in bfloat16 as in float32."""
    operands = {dtype: torch.ones(width, width, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)}
    best = dict.fromkeys(operands, float("inf"))
    for _ in range(9):  # alternating, best of each: other work on the machine slows both
        for dtype, matrix in operands.items():
            start = time.process_time()
            matrix @ matrix
            best[dtype] = min(best[dtype], time.process_time() - start)
    return best[torch.float32] > factor * best[torch.bfloat16]
