"""A profile of one optimizer step, operation by operation, for trace viewers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

_WARMUP = 2  # steps before the recorded one: the first warms up the memory, the second the profiler


@contextmanager
def profiling(path: Path | None, tell: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Profile the third step of the block, which is a later step of a resumed training.

    Args:
        path: of the file to write, a trace in Chrome's format; None: nothing is recorded.
        tell: prints the outcome, a sentence.

    Yields:
        A function to call after every step.
    """
    if path is None:
        yield lambda: None
        return
    written = []

    def write(profiled: profile) -> None:
        profiled.export_chrome_trace(str(path))
        written.append(path)

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    with profile(
        activities=activities,
        schedule=schedule(wait=_WARMUP - 1, warmup=1, active=1, repeat=1),
        on_trace_ready=write,
        record_shapes=True,
    ) as profiler:
        yield profiler.step
    if written:
        tell(f"step {_WARMUP + 1} of this process was recorded in {path}; ui.perfetto.dev and chrome://tracing show it")
    else:
        tell(f"no step was recorded: tracking.profile records step {_WARMUP + 1} of a process")
