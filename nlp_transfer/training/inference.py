"""A trained or frozen model over a split, on all ranks: logits or features of every example, exactly once."""

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
from nlp_transfer.training.memory import tried

_ROWS_AT_ONCE = 1 << 16  # that are summed over the ranks, so that no second matrix stands beside the first
_WATCHED: ContextVar[Callable[[int, int], None]] = ContextVar("watched", default=lambda done, total: None)


class Matrix(Protocol):
    """One row an example, of which every rank writes some."""

    def put(self, examples: np.ndarray, values: np.ndarray) -> None:
        """Write the rows of some examples, float32 (examples, width)."""

    def values(self) -> np.ndarray:
        """Return all rows when every rank has written its own; all ranks ask."""


Room = Callable[[int, int], Matrix]  # from rows and width, which is 0 on a rank that has no row to write


class InMemory:
    """A matrix that every rank holds as a whole."""

    def __init__(self, accelerator: Accelerator | None, rows: int, width: int) -> None:
        """Begin with zeros.

        Args:
            accelerator: of the ranks that write; None: this one writes all.
            rows: of the matrix.
            width: of a row; 0 where this rank does not know.
        """
        self._accelerator = accelerator if accelerator is not None and accelerator.num_processes > 1 else None
        if self._accelerator is not None:
            width = int(self._accelerator.gather(torch.tensor([width], device=self._accelerator.device)).max())
        self._values = np.zeros((rows, width), np.float32)

    def put(self, examples: np.ndarray, values: np.ndarray) -> None:
        """Write the rows of some examples."""
        self._values[examples] = values

    def values(self) -> np.ndarray:
        """Return the sums over all ranks: of a value and zeros they are exact."""
        if self._accelerator is not None:
            for start in range(0, len(self._values), _ROWS_AT_ONCE):
                part = self._values[start : start + _ROWS_AT_ONCE]
                own = torch.tensor(part, device=self._accelerator.device)
                part[:] = self._accelerator.reduce(own, "sum").cpu().numpy()
        return self._values


@contextmanager
def watched(show: Callable[[int, int], None]) -> Iterator[None]:
    """Tell, in the block, after every forward pass how many of how many rows of a split this rank is done with."""
    token = _WATCHED.set(show)
    try:
        yield
    finally:
        _WATCHED.reset(token)


def to_device(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """Return the arrays of a batch as tensors on a device.

    In torch's own memory: a matrix product over floats that begin between its boundaries ends in other last bits, and
    where an array of NumPy's begins is chance. Numbers of 16 bits without sign are those of bfloat16.
    """
    at_once = device.type == "cuda"  # it copies what is not pinned before it returns; MPS would read it too late
    own = {name: torch.tensor(np.ascontiguousarray(array)) for name, array in batch.items()}
    tensors = {name: tensor.to(device, non_blocking=at_once) for name, tensor in own.items()}
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
    room: Room | None = None,
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
        want: "logits" or "features" (what enters the output layer), or both, which then stand side by side.
        among_ranks: whether all ranks ask the same; else this one answers by itself what it alone asks.
        room: gives what the rows are written into, once on every rank; None: memory.

    Raises:
        UserError: where memory does not suffice for a single example, or the model's answer is not a finite number.
    """
    wanted = (want,) if isinstance(want, str) else want
    room = room or partial(InMemory, accelerator if among_ranks else None)
    with _answering(accelerator, model, whole=columns.features is None) as (model, autocast):
        mine = evaluation_batches(columns.tokens, most_tokens=most_tokens, places_a_token=padding.places_a_token)
        if among_ranks:
            mine = mine[accelerator.process_index :: accelerator.num_processes]

        def forwarded(examples: np.ndarray) -> np.ndarray:
            batch = to_device(collate(columns, examples, padding=padding), accelerator.device)
            with autocast():
                outputs = forward(model, batch)
            return np.hstack([getattr(outputs, name).float().cpu().numpy() for name in wanted])

        told = np.zeros((2, len(columns)), np.int32)  # how often each row was answered, and how often not by numbers
        matrix: Matrix | None = None
        for examples, values in _passes(mine, forwarded, columns):
            matrix = matrix or room(len(columns), values.shape[1])
            matrix.put(examples, values)
            told[0, examples] += 1
            told[1, examples] += ~np.isfinite(values).all(axis=1)
        matrix = matrix or room(len(columns), 0)
    if among_ranks and accelerator.num_processes > 1:
        told = accelerator.reduce(torch.from_numpy(told).to(accelerator.device), "sum").cpu().numpy()
    assert (told[0] == 1).all(), "every example must be evaluated exactly once"
    if told[1].any():  # or every figure would be of labels picked by chance
        broken = np.flatnonzero(told[1])
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
    """Return what enters a layer for every token of a split, (tokens, width) in their order.

    In one process alone. Where the model computes in bfloat16 its bits are returned, as uint16, else float32.

    Args:
        accelerator: gives the device and the precision.
        model: the classifier model, packed.
        columns: the split.
        layer: its qualified name in the model before any wrapping; nothing above it runs.
        padding: how rows are made equal.
        most_tokens: in one forward pass.

    Raises:
        UserError: where memory does not suffice for a single example.
    """
    with _answering(accelerator, model) as (model, autocast):
        boundary = unwrapped(model).get_submodule(layer)

        def forwarded(examples: np.ndarray) -> np.ndarray:
            batch = to_device(collate(columns, examples, padding=padding), accelerator.device)
            with autocast():
                states = states_before(boundary, partial(forward, model, batch))
            states = states.view(torch.uint16) if states.dtype == torch.bfloat16 else states.float()
            return states.cpu().numpy()

        states: np.ndarray | None = None
        batches = evaluation_batches(columns.tokens, most_tokens=most_tokens, places_a_token=padding.places_a_token)
        for examples, values in _passes(batches, forwarded, columns):
            if states is None:
                states = np.empty((len(columns.tokens.ids), values.shape[1]), values.dtype)
            states[token_places(columns.tokens, examples)] = values
    assert states is not None, "a split has rows"
    return states


@contextmanager
def _answering(
    accelerator: Accelerator, model: nn.Module, *, whole: bool = True
) -> Iterator[tuple[nn.Module, Callable[[], AbstractContextManager[Any]]]]:
    """Give the model, or its copy in bfloat16, in evaluation mode, and the autocast it runs under.

    Where not the whole model runs, but its output layer alone, there is nothing to copy for.
    """
    if whole and computes_in_bfloat16(accelerator) and not is_in_bfloat16(model):
        model = answering_copy(model)
    was_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield model, nullcontext if is_in_bfloat16(model) else accelerator.autocast
    finally:
        for module in was_training:
            module.training = True


def answering_copy(model: nn.Module) -> nn.Module:
    """Return a copy of a model that computes in bfloat16 and gives the same bits as any such copy, but learns nothing.

    Its linear layers know their weights in the order in which the processor's matrix products want them, and add the
    bias in them: as torch does it, that takes a tenth longer.
    """
    own = in_bfloat16(model, model)
    for layer in own.modules() if _orders_weights() else ():
        if type(layer) is nn.Linear and layer.weight.dtype == torch.bfloat16 and layer.weight.device.type == "cpu":
            ordered = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None)
            layer.forward = partial(_linear, ordered, layer.bias)  # type: ignore[method-assign]
    return own


def _orders_weights() -> bool:
    """Return whether torch has what it compiles linear layers to on this processor; it is not public."""
    needed = ("_is_mkldnn_bf16_supported", "_reorder_linear_weight", "_linear_pointwise")
    known = torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in needed)
    return known and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _linear(weight: Tensor, bias: Tensor | None, states: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")


def _passes(
    batches: Iterable[np.ndarray], forwarded: Callable[[np.ndarray], np.ndarray], columns: Columns
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the examples of every forward pass and what came out; one that memory does not suffice for is halved."""
    waiting = deque(batches)
    done, total, show = 0, sum(map(len, waiting)), _WATCHED.get()
    while waiting:
        examples = waiting.popleft()
        values = tried(partial(forwarded, examples))
        if values is not None:
            yield examples, values
            done += len(examples)
            show(done, total)
        elif len(examples) > 1:
            # The batches are sorted by length and equally large: those that follow would fail as this one did.
            waiting = deque(half for each in (examples, *waiting) for half in np.array_split(each, 2) if len(half))
        else:
            raise UserError(
                f"memory does not suffice for a text of {columns.tokens.longest[examples[0]]:,} tokens; set "
                "tokens.long=chunk or tokens.max_length=..."
            )
