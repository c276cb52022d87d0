"""The rate of matrix multiplication in the shapes of an encoder's linear layers."""

from __future__ import annotations

import time

from recipes.benchmarks.timing.stopwatch import Job, Result

TOKENS = 2048
WIDTHS = (384, 768)  # MiniLM and BERT base


def rates(job: Job) -> Result:
    """Return the GFLOP/s of a layer's forward matrix products, the best of 20: `fp32_384`, `bf16_384`, ..."""
    import torch

    clock = time.process_time if job["threads"] == 1 else time.perf_counter
    found: Result = {"capability": torch.backends.cpu.get_cpu_capability()}
    for width in WIDTHS:
        for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            work = seconds = 0.0
            for inner, outer, count in ((width, width, 4), (width, 4 * width, 1), (4 * width, width, 1)):
                states, weight = torch.randn(TOKENS, inner).to(kind), torch.randn(outer, inner).to(kind)
                times = []
                for _ in range(20):
                    started = clock()
                    torch.nn.functional.linear(states, weight)
                    times.append(clock() - started)
                seconds += count * min(times)
                work += count * 2 * TOKENS * inner * outer
            found[f"{name}_{width}"] = work / seconds / 1e9
    return found
