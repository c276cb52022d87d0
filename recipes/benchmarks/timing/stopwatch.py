"""What every piece needs in its process: imports before the clock starts, the clock, and what a text costs."""

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

from recipes.benchmarks.timing.texts import read

MOST_TOKENS = 128  # of a text, for all methods
ENCODE_BATCH = 32  # sentence-transformers' own default

Job = dict[str, Any]
Result = dict[str, Any]


class Missing(Exception):
    """What a peer needs is not installed."""


def need(*modules: str) -> None:
    """Import modules before the clock starts, or say which are not installed."""
    packages = dict.fromkeys(name.split(".")[0] for name in modules)
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise Missing(f"not installed: {', '.join(missing)}")
    for name in modules:
        importlib.import_module(name)


class Stopwatch:
    """Processor and wall time of a block, and of the optimizer steps in it."""

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
        """Of the block."""
        return _named(self.end - self.start)

    def result(self, job: Job, **more: Any) -> Result:
        """Return the figures of the block: `steady` are the steps after the first `skip`, where the job has that."""
        found: Result = self.seconds | {"peak_mb": self.peak_mb, "steps": len(self.steps)}
        if "skip" in job:
            if len(self.steps) <= job["skip"]:
                raise RuntimeError(f"{len(self.steps)} optimizer steps were seen, more than {job['skip']} expected")
            found["steady"] = _named(self.steps[-1] - self.steps[job["skip"] - 1])
            found["steady_texts"] = (len(self.steps) - job["skip"]) * job["batch"]
        return found | more


def now() -> np.ndarray:
    """Return the processor's and the wall clock's time."""
    return np.array([time.process_time(), time.perf_counter()])


def _named(seconds: np.ndarray) -> dict[str, float]:
    return {"cpu": float(seconds[0]), "wall": float(seconds[1])}


def peak_mb() -> float:
    """Return the largest resident memory of this process until now, imports and all."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (2**20 if sys.platform == "darwin" else 2**10)


def texts_of(folder: str, split: str) -> list[str]:
    """Return the texts of a split."""
    return [text for text, _ in read(Path(folder) / f"{split}.csv")]


def cost_of_texts(job: Job) -> Result:
    """Return the mean tokens of a training text and of their squares (attention), and the size of the encoder."""
    from tokenizers import Tokenizer

    encoder = Path(job["encoder"])
    tokenizer = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    encoded = tokenizer.encode_batch(texts_of(job["data"], "train"))
    lengths = np.minimum([len(text.ids) for text in encoded], MOST_TOKENS).astype(float)
    config = json.loads((encoder / "config.json").read_text())
    return {
        "tokens": float(lengths.mean()),
        "squares": float(np.square(lengths).mean()),
        "layers": config["num_hidden_layers"],
        "width": config["hidden_size"],
    }
