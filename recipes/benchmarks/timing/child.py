"""Run one job in a process of its own: python -m recipes.benchmarks.timing.child '{"piece": "trainer.train", ...}'.

The last line on standard output is the result, or the reason why there is none.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from contextlib import redirect_stdout

from recipes.benchmarks.timing.stopwatch import Job, Missing, Result


def measure(job: Job) -> Result:
    """Return the result of the job, or `skipped` with the reason why it cannot be measured here."""
    module, name = job["piece"].split(".")
    piece = getattr(importlib.import_module(f"recipes.benchmarks.timing.{module}"), name)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            return piece(job | {"scratch": scratch})
        except Missing as missing:
            return {"skipped": str(missing)}


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):
        found = measure(json.loads(sys.argv[1]))
    print(json.dumps(found))
