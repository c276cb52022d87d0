"""What all jobs need in their process: imports before the clock starts, the clock, and the cost of texts."""

from __future__ import annotations

import importlib
import importlib.util
import json
import resource
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from recipes.benchmarks.timing.texts import read_pairs

MAX_TOKENS = 128  # per text, for all methods
ENCODE_BATCH = 32  # the default of sentence-transformers

Job = dict[str, Any]
Result = dict[str, Any]


class Missing(Exception):
    """Something that a job needs does not exist on this machine."""


def need(*modules: str) -> None:
    """Import modules before the clock starts.

    Raises:
        Missing: packages that are not installed.
    """
    packages = dict.fromkeys(name.split(".")[0] for name in modules)
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise Missing(f"not installed: {', '.join(missing)}")
    for name in modules:
        importlib.import_module(name)


class Stopwatch:
    """Processor and wall time of a block and of the optimizer steps in it, and its peak memory."""

    def __enter__(self) -> Stopwatch:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self.steps: list[np.ndarray] = []
        self.hook = register_optimizer_step_post_hook(lambda *_: self.steps.append(now()))
        self.start = now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end, self.peak_mb = now(), peak_mb()
        self.hook.remove()

    @property
    def seconds(self) -> dict[str, float]:
        """Processor ("cpu") and wall time of the block."""
        return _named(self.end - self.start)

    def result(self, job: Job, **more: Any) -> Result:
        """Return the figures of the block; for a job with `skip`, `steady` is the time of the steps after these."""
        found: Result = self.seconds | {"peak_mb": self.peak_mb, "steps": len(self.steps)}
        if "skip" in job:
            if len(self.steps) <= job["skip"]:
                raise RuntimeError(f"{len(self.steps)} optimizer steps were seen, more than {job['skip']} expected")
            found["steady"] = _named(self.steps[-1] - self.steps[job["skip"] - 1])
            found["steady_texts"] = (len(self.steps) - job["skip"]) * job["batch"]
        return found | more


def now() -> np.ndarray:
    """Return the processor time of this process and the wall time, in seconds."""
    return np.array([time.process_time(), time.perf_counter()])


def _named(seconds: np.ndarray) -> dict[str, float]:
    return {"cpu": float(seconds[0]), "wall": float(seconds[1])}


def peak_mb() -> float:
    """Return the peak resident memory of this process so far in MB, imports included."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (2**20 if sys.platform == "darwin" else 2**10)


def read_split(folder: str, split: str) -> list[str]:
    """Return the texts of a split."""
    return [text for text, _ in read_pairs(Path(folder) / f"{split}.csv")]


def text_costs(job: Job) -> Result:
    """Return the means of a training text's tokens and of their square (for attention), and the encoder's size."""
    from tokenizers import Tokenizer

    encoder = Path(job["encoder"])
    tokenizer = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    encoded = tokenizer.encode_batch(read_split(job["data"], "train"))
    lengths = np.minimum([len(text.ids) for text in encoded], MAX_TOKENS).astype(float)
    config = json.loads((encoder / "config.json").read_text())
    return {
        "tokens": float(lengths.mean()),
        "squares": float(np.square(lengths).mean()),
        "layers": config["num_hidden_layers"],
        "width": config["hidden_size"],
    }
