"""What one optimizer step is made of, operation by operation, as a file that trace viewers open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

_BEFORE = 2  # steps: the first meets cold memory, in the second the profiler itself is cold


@contextmanager
def profiling(path: Path | None, tell: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Record the third step of the block, which of a training that has gone on from a checkpoint is a later one.

    Args:
        path: of the file to write, a trace in Chrome's format; None: nothing is recorded.
        tell: is told in a sentence what became of it.

    Yields:
        What is to be called after every step.
    """
    if path is None:
        yield lambda: None
        return
    written = []

    def write(recorded: profile) -> None:
        recorded.export_chrome_trace(str(path))
        written.append(path)

    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    with profile(
        activities=kinds,
        schedule=schedule(wait=_BEFORE - 1, warmup=1, active=1, repeat=1),
        on_trace_ready=write,
        record_shapes=True,
    ) as recording:
        yield recording.step
    if written:
        tell(f"step {_BEFORE + 1} of this process was recorded in {path}; ui.perfetto.dev and chrome://tracing show it")
    else:
        tell(f"no step was recorded: tracking.profile records step {_BEFORE + 1} of a process")
