"""Inference over a split on all ranks: the logits or features of every example, exactly once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from nlp_transfer.data.batches import Batch, Columns, Padding, collate, evaluation_batches, token_places
from nlp_transfer.encoder.anatomy import unwrapped
from nlp_transfer.encoder.boundary import states_before
from nlp_transfer.encoder.classifier import forward
from nlp_transfer.errors import UserError
from nlp_transfer.training.bfloat16 import computes_in_bfloat16, in_bfloat16, is_in_bfloat16
from nlp_transfer.training.memory import none_if_out_of_memory

_ROWS_AT_ONCE = 1 << 16  # summed over the ranks at a time, so that no second matrix is held in memory
_ON_PROGRESS: ContextVar[Callable[[int, int], None]] = ContextVar("on_progress", default=lambda done, total: None)


class Matrix(Protocol):
    """A matrix with one row an example, each written by one rank."""

    def put(self, examples: np.ndarray, values: np.ndarray) -> None:
        """Write the rows of some examples, float32 (examples, width)."""

    def values(self) -> np.ndarray:
        """Return all rows, after every rank has written its own; called on all ranks."""


MakeMatrix = Callable[[int, int], Matrix]  # from rows and width; the width is 0 on a rank without rows


class InMemory:
    """A matrix that every rank holds completely."""

    def __init__(self, accelerator: Accelerator | None, rows: int, width: int) -> None:
        """Start with zeros.

        Args:
            accelerator: of the ranks that write rows; None: this one writes all.
            rows: the number of rows.
            width: of a row; 0 on a rank that does not know it.
        """
        self._accelerator = accelerator if accelerator is not None and accelerator.num_processes > 1 else None
        if self._accelerator is not None:
            width = int(self._accelerator.gather(torch.tensor([width], device=self._accelerator.device)).max())
        self._values = np.zeros((rows, width), np.float32)

    def put(self, examples: np.ndarray, values: np.ndarray) -> None:
        """Write the rows of some examples."""
        self._values[examples] = values

    def values(self) -> np.ndarray:
        """Return the sum over all ranks, which is exact: one of them has the value, the others 0."""
        if self._accelerator is not None:
            for start in range(0, len(self._values), _ROWS_AT_ONCE):
                part = self._values[start : start + _ROWS_AT_ONCE]
                values = torch.tensor(part, device=self._accelerator.device)
                part[:] = self._accelerator.reduce(values, "sum").cpu().numpy()
        return self._values


@contextmanager
def reporting_progress(show: Callable[[int, int], None]) -> Iterator[None]:
    """Call `show` in the block after every forward pass, with this rank's rows done and its rows in all."""
    token = _ON_PROGRESS.set(show)
    try:
        yield
    finally:
        _ON_PROGRESS.reset(token)


def to_device(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """Return the arrays of a batch as tensors on a device.

    They are copied into torch's aligned memory, for NumPy aligns arrays by chance and the last bits of a matrix product
    depend on alignment. uint16 arrays hold the bits of bfloat16 values.
    """
    at_once = device.type == "cuda"  # CUDA copies unpinned memory before it returns; MPS might read it too late
    on_cpu = {name: torch.tensor(np.ascontiguousarray(array)) for name, array in batch.items()}
    tensors = {name: tensor.to(device, non_blocking=at_once) for name, tensor in on_cpu.items()}
    return {name: t.view(torch.bfloat16) if t.dtype == torch.uint16 else t for name, t in tensors.items()}


@torch.inference_mode()
def run(
    accelerator: Accelerator,
    model: nn.Module,
    columns: Columns,
    *,
    padding: Padding,
    most_tokens: int,
    want: str | tuple[str, ...] = "logits",
    among_ranks: bool = True,
    make_matrix: MakeMatrix | None = None,
) -> np.ndarray:
    """Return one row an example, float32 (examples, outputs or width), the same on every rank.

    Batches are formed over the whole split and dealt to the ranks, so that their number does not change any row.

    Args:
        accelerator: gives the device, the precision and the ranks.
        model: the classifier model, unwrapped.
        columns: the split.
        padding: how the rows of a batch are padded.
        most_tokens: padded tokens in one forward pass.
        want: "logits" or "features" (the input of the output layer), or both, side by side.
        among_ranks: whether all ranks call this and share the work; else this rank does all of it.
        make_matrix: makes the matrix that rows are written into, once on every rank; None: one in memory.

    Raises:
        UserError: if memory does not suffice for a single example, or if an output is not finite.
    """
    wanted = (want,) if isinstance(want, str) else want
    make_matrix = make_matrix or partial(InMemory, accelerator if among_ranks else None)
    with _evaluation_mode(accelerator, model, whole=columns.features is None) as (model, autocast):
        batches = evaluation_batches(
            columns.tokens, most_tokens=most_tokens, positions_per_token=padding.positions_per_token
        )
        if among_ranks:
            batches = batches[accelerator.process_index :: accelerator.num_processes]

        def run_batch(examples: np.ndarray) -> np.ndarray:
            batch = to_device(collate(columns, examples, padding=padding), accelerator.device)
            with autocast():
                outputs = forward(model, batch)
            return np.hstack([getattr(outputs, name).float().cpu().numpy() for name in wanted])

        counts = np.zeros((2, len(columns)), np.int32)  # times that each row was computed, and was not finite
        matrix: Matrix | None = None
        for examples, values in _passes(batches, run_batch, columns):
            matrix = matrix or make_matrix(len(columns), values.shape[1])
            matrix.put(examples, values)
            counts[0, examples] += 1
            counts[1, examples] += ~np.isfinite(values).all(axis=1)
        matrix = matrix or make_matrix(len(columns), 0)
    if among_ranks and accelerator.num_processes > 1:
        counts = accelerator.reduce(torch.from_numpy(counts).to(accelerator.device), "sum").cpu().numpy()
    assert (counts[0] == 1).all(), "every example must be evaluated exactly once"
    if counts[1].any():  # else metrics would be of meaningless labels
        broken = np.flatnonzero(counts[1])
        raise UserError(
            f"the model's {' and '.join(wanted)} are infinite or not a number for {len(broken):,} of {len(columns):,} "
            f"rows (of these the {broken[0] + 1:,}. first); set training.precision=fp32; if that changes nothing, the "
            "weights are damaged"
        )
    return matrix.values()


@torch.inference_mode()
def run_to(
    accelerator: Accelerator, model: nn.Module, columns: Columns, *, layer: str, padding: Padding, most_tokens: int
) -> np.ndarray:
    """Return the input of a layer for every token of a split, (tokens, width), in the order of the tokens.

    Works in a single process. Float32, or the bits of bfloat16 as uint16 if the model computes in that.

    Args:
        accelerator: gives the device and the precision.
        model: the classifier model, packed.
        columns: the split.
        layer: its qualified name in the unwrapped model; it and the layers above do not run.
        padding: how the rows of a batch are padded.
        most_tokens: padded tokens in one forward pass.

    Raises:
        UserError: if memory does not suffice for a single example.
    """
    with _evaluation_mode(accelerator, model) as (model, autocast):
        boundary = unwrapped(model).get_submodule(layer)

        def run_batch(examples: np.ndarray) -> np.ndarray:
            batch = to_device(collate(columns, examples, padding=padding), accelerator.device)
            with autocast():
                states = states_before(boundary, partial(forward, model, batch))
            states = states.view(torch.uint16) if states.dtype == torch.bfloat16 else states.float()
            return states.cpu().numpy()

        states: np.ndarray | None = None
        batches = evaluation_batches(
            columns.tokens, most_tokens=most_tokens, positions_per_token=padding.positions_per_token
        )
        for examples, values in _passes(batches, run_batch, columns):
            if states is None:
                states = np.empty((len(columns.tokens.ids), values.shape[1]), values.dtype)
            states[token_places(columns.tokens, examples)] = values
    assert states is not None, "a split has rows"
    return states


@contextmanager
def _evaluation_mode(
    accelerator: Accelerator, model: nn.Module, *, whole: bool = True
) -> Iterator[tuple[nn.Module, Callable[[], AbstractContextManager[Any]]]]:
    """Yield the model, or its bfloat16 copy, in evaluation mode, and the autocast context for it.

    No copy is made unless the whole model runs, rather than only its output layer.
    """
    if whole and computes_in_bfloat16(accelerator) and not is_in_bfloat16(model):
        model = inference_copy(model)
    was_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield model, nullcontext if is_in_bfloat16(model) else accelerator.autocast
    finally:
        for module in was_training:
            module.training = True


def inference_copy(model: nn.Module) -> nn.Module:
    """Return a bfloat16 copy of a model for inference only, with the same outputs, bit for bit, as `in_bfloat16`.

    On a CPU its linear layers have their weights reordered for oneDNN and the bias fused in, which saves a tenth of the
    time.
    """
    copied = in_bfloat16(model, model)
    for layer in copied.modules() if _can_reorder_weights() else ():
        if type(layer) is nn.Linear and layer.weight.dtype == torch.bfloat16 and layer.weight.device.type == "cpu":
            ordered = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None)
            layer.forward = partial(_linear, ordered, layer.bias)  # type: ignore[method-assign]
    return copied


def _can_reorder_weights() -> bool:
    """Return whether torch has the (private) oneDNN operators that it compiles linear layers to."""
    needed = ("_is_mkldnn_bf16_supported", "_reorder_linear_weight", "_linear_pointwise")
    available = torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in needed)
    return available and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _linear(weight: Tensor, bias: Tensor | None, states: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")


def _passes(
    batches: Iterable[np.ndarray], run_batch: Callable[[np.ndarray], np.ndarray], columns: Columns
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the examples and the result of every forward pass; a batch that runs out of memory is halved."""
    waiting = deque(batches)
    done, total, show = 0, sum(map(len, waiting)), _ON_PROGRESS.get()
    while waiting:
        examples = waiting.popleft()
        values = none_if_out_of_memory(partial(run_batch, examples))
        if values is not None:
            yield examples, values
            done += len(examples)
            show(done, total)
        elif len(examples) > 1:
            # Batches are sorted by length and equally large: those that follow would run out of memory, too.
            waiting = deque(half for batch in (examples, *waiting) for half in np.array_split(batch, 2) if len(half))
        else:
            raise UserError(
                f"memory does not suffice for a text of {columns.tokens.longest[examples[0]]:,} tokens; set "
                "tokens.long=chunk or tokens.max_length=..."
            )
