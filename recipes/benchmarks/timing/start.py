"""The time from starting our command line to its end, or to its first optimizer step."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from recipes.benchmarks.timing.stopwatch import Job, Missing, Result

COMMAND = [sys.executable, "-m", "nlp_transfer"]


def to_the_end(job: Job) -> Result:
    """Measure a command with the arguments `words`, which must end with `status`."""
    return _run([*COMMAND, *job["words"]], job["status"])


def to_the_first_step(job: Job) -> Result:
    """Measure `adapt` until the first optimizer step is logged."""
    if not Path("/proc/self/stat").exists():
        raise Missing("not measured: /proc does not exist")
    output = Path(job["scratch"])
    words = {
        "data": "files",
        "data.path": job["data"],
        "encoder": "custom",
        "encoder.name": job["encoder"],
        "output": output,
        "training.batch_size": job["batch"],
        "training.max_steps": 1,
        "evaluation.floors": "false",
    }
    command = [*COMMAND, "adapt", *(f"{key}={value}" for key, value in words.items())]
    return _run(command, 0, lambda: any(path.stat().st_size for path in output.glob("*/metrics.jsonl")))


def _run(command: list[str], status: int, reached: Callable[[], bool] | None = None) -> Result:
    """Return the time and the peak memory of a command, to its end or until `reached` returns True."""
    times: Result = {}
    with tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        ended, code, used = os.wait4(process.pid, os.WNOHANG if reached else 0)
        while not ended:
            if not times and reached and reached():
                times = {"wall": time.perf_counter() - began, "cpu": _cpu_of(process.pid)}
            time.sleep(0.002)
            ended, code, used = os.wait4(process.pid, os.WNOHANG)
        if not reached:
            times = {"wall": time.perf_counter() - began, "cpu": used.ru_utime + used.ru_stime}
        process.returncode = os.waitstatus_to_exitcode(code)
        if process.returncode != status or not times:
            errors.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {errors.read().decode()[-600:]}")
    return times | {"peak_mb": used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)}


def _cpu_of(process: int) -> float:
    """Return the processor seconds that a process has used so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
