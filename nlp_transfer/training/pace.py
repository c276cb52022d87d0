"""How fast a training is and where its time goes, counted on the way; nothing waits for it.

"matrix_share" is the model FLOPs utilisation of Chowdhery et al. 2022 (arXiv 2204.02311, appendix B) in the layers that
multiply matrices, against what this device was measured to multiply, not against its data sheet. What they multiply for
padding counts as useful there, and so does the short example over which a rank meets others when it has none left.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.profiler import record_function
from transformers.pytorch_utils import Conv1D

from nlp_transfer.training.peak import peak_megabytes

PARTS = ("data", "forward", "backward", "optimizer")
_WAITING = 512  # parts whose time is not read yet; on a GPU the oldest of them have ended long ago
_WIDTH, _TIMES = {"cpu": 768}, 3  # of square matrices whose product is timed: a large one, but of a moment


class Pace:
    """What was done since it was last told, and how long each part of it took."""

    def __init__(self, accelerator: Accelerator, step: nn.Module) -> None:
        """Begin.

        Args:
            accelerator: of the training.
            step: what runs in its passes.
        """
        self._accelerator, self._step = accelerator, step
        self._on_gpu = accelerator.device.type == "cuda"
        self._now: str | None = None  # the part that runs
        self._a_token: float | None = None  # floating-point operations of a token, once a step was counted
        self._operations: list[int] = []  # of the step in which they are counted
        self.go_on()

    def go_on(self) -> None:
        """Count anew from now on."""
        self._began = time.perf_counter()
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._waiting: deque[tuple[str, Any, Any]] = deque()
        self._tokens = self._places = self._examples = 0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time of the block for one of PARTS, as which a profile shows it, too."""
        began, self._now = self._mark(), name
        with record_function(name):
            yield
        self._now = None
        self._waiting.append((name, began, self._mark()))
        if len(self._waiting) > _WAITING:
            self._read(_WAITING // 2)

    def count(self, tokens: int, places: int, examples: int) -> None:
        """Count a pass that this rank has done.

        Args:
            tokens: of its texts.
            places: the same with padding, as far as that is computed.
            examples: in it.
        """
        self._tokens += tokens
        self._places += places
        self._examples += examples

    @contextmanager
    def passes(self) -> Iterator[None]:
        """Surround the passes of a step; in the first one it is counted what they multiply."""
        self._before = self._tokens, self._places, self._examples
        if self._a_token is not None:
            yield
            return
        with self._multiplying():
            yield
        if tokens := self._tokens - self._before[0]:
            self._a_token = sum(self._operations) / tokens

    def begin_again(self) -> None:
        """Forget the passes of the step that runs: memory did not suffice for one, and all are done once more."""
        self._tokens, self._places, self._examples = self._before
        self._operations.clear()

    def told(self) -> dict[str, float]:
        """Return figures of all ranks since it began or went on; every rank has to ask.

        Returns:
            "tokens_per_second" and "rows_per_second" of wall time; "padding": the share of what was computed that is
            no token; of the time of the first rank the shares of "data" (cutting, collating and copying), "forward",
            "backward" and "optimizer" (clipping and stepping); "matrix_share": of the operations a second that the
            first rank's device multiplies large matrices with; "peak_memory_mb", in 10⁶ bytes.
        """
        self._read(0)
        wall = max(time.perf_counter() - self._began, 1e-9)
        own = torch.tensor([self._tokens, self._places, self._examples], device=self._accelerator.device)
        total = self._accelerator.reduce(own, "sum")
        assert isinstance(total, Tensor)
        tokens, places, examples = total.tolist()
        found = {
            "tokens_per_second": tokens / wall,
            "rows_per_second": examples / wall,
            "padding": 1 - tokens / max(places, 1),
            **{name: seconds / wall for name, seconds in self._seconds.items()},
        }
        if self._a_token:
            narrow = {"bf16": torch.bfloat16, "fp16": torch.float16}
            kind = narrow.get(str(self._accelerator.mixed_precision), torch.float32)
            at_most = operations_per_second(self._accelerator.device, kind)
            found["matrix_share"] = self._a_token * self._tokens / wall / at_most
        peak = peak_megabytes()
        return found | ({} if peak is None else {"peak_memory_mb": peak})

    @contextmanager
    def _multiplying(self) -> Iterator[None]:
        """Collect the operations of every linear layer that runs in the block, its backward half included."""

        def ran(layer: nn.Module, entered: tuple[Any, ...], left: Any) -> None:
            # What checkpointing computes once more in the backward half does not count.
            if self._now == "forward" and entered and isinstance(entered[0], Tensor):
                weight = layer.weight
                assert isinstance(weight, Tensor)
                rows = entered[0].numel() // entered[0].shape[-1]
                gradients = int(entered[0].requires_grad) + int(weight.requires_grad)
                self._operations.append(2 * rows * weight.numel() * (1 + gradients * torch.is_grad_enabled()))

        modules = list(self._step.modules())
        if any(module._compiled_call_impl for module in modules):  # which a hook would have compiled once more
            modules = []
        layers = [module for module in modules if isinstance(module, (nn.Linear, Conv1D))]
        handles = [layer.register_forward_hook(ran) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _mark(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _read(self, left: int) -> None:
        """Add up the times of all parts but so many."""
        while len(self._waiting) > left:
            name, began, ended = self._waiting.popleft()
            if self._on_gpu:
                ended.synchronize()
                self._seconds[name] += began.elapsed_time(ended) / 1000
            else:
                self._seconds[name] += ended - began


def rounded(figures: Mapping[str, float]) -> dict[str, float]:
    """Return figures with the digits that say something."""
    return {name: float(f"{value:.4g}") for name, value in figures.items()}


def in_words(figures: Mapping[str, float]) -> str:
    """Return what `Pace.told` found, for a person."""
    told = [f"{figures['tokens_per_second']:,.0f} tokens a second", f"{figures['padding']:.0%} padding"]
    told += [f"{figures[name]:.0%} {name}" for name in PARTS]
    if "matrix_share" in figures:
        told.append(f"{figures['matrix_share']:.0%} of the rate of matrix products")
    if "peak_memory_mb" in figures:
        told.append(f"{figures['peak_memory_mb']:,.0f} MB at most")
    return ", ".join(told)


@cache  # it takes some 50 ms, and every run of a process asks
def operations_per_second(device: torch.device, kind: torch.dtype) -> float:
    """Return the floating-point operations a second of large products of matrices, the best of a few."""
    width = _WIDTH.get(device.type, 4096)
    matrix = torch.ones(width, width, dtype=kind, device=device)
    best = float("inf")
    for _ in range(_TIMES):
        began = time.perf_counter()
        matrix @ matrix
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * width**3 / best
