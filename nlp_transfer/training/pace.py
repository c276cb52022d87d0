"""Throughput of a training and where its time goes, measured without synchronising the device.

"matrix_share" is the model FLOPs utilisation of Chowdhery et al. 2022 (arXiv 2204.02311, appendix B) of the linear
layers, relative to the matrix-product rate measured on this device, not to its data sheet. Padding counts as useful
there, and so does the dummy example of a rank that has no other left.
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
_MOST_UNREAD = 512  # timings not read yet; on a GPU the oldest of them have ended long ago
_WIDTH, _REPEATS = {"cpu": 768}, 3  # of the timed product of square matrices: large, but quick


class Pace:
    """Counts tokens, and times the parts of each step, since the last `restart`."""

    def __init__(self, accelerator: Accelerator, step: nn.Module) -> None:
        """Start counting.

        Args:
            accelerator: of the training.
            step: the module that runs in the passes.
        """
        self._accelerator, self._step = accelerator, step
        self._on_gpu = accelerator.device.type == "cuda"
        self._current_part: str | None = None
        self._flops_per_token: float | None = None  # known after the first step
        self._flops: list[int] = []  # of each layer call in the first step
        self.restart()

    def restart(self) -> None:
        """Reset all counts."""
        self._started = time.perf_counter()
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._unread: deque[tuple[str, Any, Any]] = deque()
        self._tokens = self._places = self._examples = 0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time the block as one of PARTS, and name it so in a profile."""
        start, self._current_part = self._timestamp(), name
        with record_function(name):
            yield
        self._current_part = None
        self._unread.append((name, start, self._timestamp()))
        if len(self._unread) > _MOST_UNREAD:
            self._read(_MOST_UNREAD // 2)

    def count(self, tokens: int, places: int, examples: int) -> None:
        """Count a pass of this rank.

        Args:
            tokens: without padding.
            places: tokens with the padding that is computed.
            examples: in the pass.
        """
        self._tokens += tokens
        self._places += places
        self._examples += examples

    @contextmanager
    def passes(self) -> Iterator[None]:
        """Enclose the passes of a step; in the first one, count the operations of its linear layers."""
        self._before_step = self._tokens, self._places, self._examples
        if self._flops_per_token is not None:
            yield
            return
        with self._counting_flops():
            yield
        if tokens := self._tokens - self._before_step[0]:
            self._flops_per_token = sum(self._flops) / tokens

    def discard_step(self) -> None:
        """Discard the counts of the current step, which is repeated because memory ran out."""
        self._tokens, self._places, self._examples = self._before_step
        self._flops.clear()

    def figures(self) -> dict[str, float]:
        """Return figures over all ranks since the last `restart`; every rank has to call it.

        Returns:
            "tokens_per_second" and "rows_per_second" of wall time; "padding": the share of the computed tokens that are
            padding; the shares of the first rank's time that went into "data" (cutting, collating and copying),
            "forward", "backward" and "optimizer" (clipping and stepping); "matrix_share": see the head of this file, of
            the first rank; "peak_memory_mb", in 10⁶ bytes.
        """
        self._read(0)
        wall = max(time.perf_counter() - self._started, 1e-9)
        counts = torch.tensor([self._tokens, self._places, self._examples], device=self._accelerator.device)
        total = self._accelerator.reduce(counts, "sum")
        assert isinstance(total, Tensor)
        tokens, places, examples = total.tolist()
        figures = {
            "tokens_per_second": tokens / wall,
            "rows_per_second": examples / wall,
            "padding": 1 - tokens / max(places, 1),
            **{name: seconds / wall for name, seconds in self._seconds.items()},
        }
        if self._flops_per_token:
            half = {"bf16": torch.bfloat16, "fp16": torch.float16}
            dtype = half.get(str(self._accelerator.mixed_precision), torch.float32)
            flops_per_second = self._flops_per_token * self._tokens / wall
            figures["matrix_share"] = flops_per_second / operations_per_second(self._accelerator.device, dtype)
        peak = peak_megabytes()
        return figures | ({} if peak is None else {"peak_memory_mb": peak})

    @contextmanager
    def _counting_flops(self) -> Iterator[None]:
        """Count the operations, forward and backward, of every linear layer that runs in the block."""

        def count(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            # What activation checkpointing recomputes in the backward pass does not count.
            if self._current_part == "forward" and inputs and isinstance(inputs[0], Tensor):
                weight = layer.weight
                assert isinstance(weight, Tensor)
                rows = inputs[0].numel() // inputs[0].shape[-1]
                gradients = int(inputs[0].requires_grad) + int(weight.requires_grad)
                self._flops.append(2 * rows * weight.numel() * (1 + gradients * torch.is_grad_enabled()))

        modules = list(self._step.modules())
        if any(module._compiled_call_impl for module in modules):  # a hook would have it compiled again
            modules = []
        layers = [module for module in modules if isinstance(module, (nn.Linear, Conv1D))]
        handles = [layer.register_forward_hook(count) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _timestamp(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _read(self, left: int) -> None:
        """Add up the oldest timings until `left` of them remain."""
        while len(self._unread) > left:
            name, start, end = self._unread.popleft()
            if self._on_gpu:
                end.synchronize()
                self._seconds[name] += start.elapsed_time(end) / 1000
            else:
                self._seconds[name] += end - start


def rounded(figures: Mapping[str, float]) -> dict[str, float]:
    """Return figures rounded to four significant digits."""
    return {name: float(f"{value:.4g}") for name, value in figures.items()}


def in_words(figures: Mapping[str, float]) -> str:
    """Return the figures of `Pace` as a sentence."""
    words = [f"{figures['tokens_per_second']:,.0f} tokens per second", f"{figures['padding']:.0%} padding"]
    words += [f"{figures[name]:.0%} {name}" for name in PARTS]
    if "matrix_share" in figures:
        words.append(f"{figures['matrix_share']:.0%} of the rate of matrix products")
    if "peak_memory_mb" in figures:
        words.append(f"{figures['peak_memory_mb']:,.0f} MB at most")
    return ", ".join(words)


@cache  # it takes some 50 ms, and every run of a process calls it
def operations_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Return the floating-point operations a second of a large matrix product, the best of a few."""
    width = _WIDTH.get(device.type, 4096)
    matrix = torch.ones(width, width, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(_REPEATS):
        start = time.perf_counter()
        matrix @ matrix
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * width**3 / best
