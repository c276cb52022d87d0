"""Jobs in processes of their own, and the file in which their results are kept."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.benchmarks.timing import machine, texts
from recipes.benchmarks.timing.works import SHAPES

Job = dict[str, Any]
Result = dict[str, Any]

ROOT = Path(__file__).parents[3]


@dataclass
class Bench:
    """Where jobs find what they read, and what is known of them.

    Attributes:
        data: one folder a data set.
        results: JSON lines; a result is appended as soon as it is there.
        scratch: for what jobs read and write.
        minilm: the folder of the default encoder.
        threads: of every job.
        again: whether what the file holds is measured again.
    """

    data: Path
    results: Path
    scratch: Path
    minilm: Path
    threads: int = 1
    again: bool = False
    began: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%S"))
    known: dict[str, Result] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.results.exists() and not self.again:
            rows = map(json.loads, self.results.read_text().splitlines())
            self.known = {row["key"]: row for row in rows}

    @property
    def clock(self) -> str:
        """The processor's with one thread, which others at work change least; the wall's with more."""
        return "cpu" if self.threads == 1 else "wall"

    def measured(self, job: Job) -> Result:
        """Return the result of a job: one that is known, or a new one, which is written down.

        What is missing or failed (`skipped`, `failed`) is not written down, so that it is tried again.
        """
        job = job | {"threads": self.threads}
        told = {
            "job": job,
            "data": texts.digest(job, self.data),
            "code": machine.code(job["piece"].split(".")[0]),
            "versions": machine.versions(),
            "processor": machine.processor(),
        }
        key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
        if key not in self.known:
            found = self.run(job | self.files(job))
            row = {"key": key, "began": self.began, **told, **found}
            if "skipped" in found or "failed" in found:
                return row
            self.known[key] = row
            with self.results.open("a") as out:
                out.write(json.dumps(row) + "\n")
        return self.known[key]

    def run(self, job: Job) -> Result:
        """Do a job in a process of its own."""
        command = [sys.executable, "-m", "recipes.benchmarks.timing.child", json.dumps(job)]
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True)
        if done.returncode:
            print(done.stderr[-1000:], file=sys.stderr)
            return {"failed": (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]}
        return json.loads(done.stdout.splitlines()[-1])

    def environment(self) -> dict[str, str]:
        """Variables for a process: its threads, and a home of its own, so that no cache of an earlier one helps."""
        home = tempfile.mkdtemp(dir=self.scratch)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "NLP_TRANSFER"))}
        offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"), "1")
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(self.threads))
        places = {"HOME": home, "XDG_CACHE_HOME": f"{home}/.cache", "PYTHONPATH": str(ROOT)}
        return kept | offline | threads | places | {"TOKENIZERS_PARALLELISM": "false"}

    def files(self, job: Job) -> Job:
        """Return the folders a job reads; what is not there is made."""
        if "model" not in job:
            return {}
        data = texts.folder_of(job, source=self.data, scratch=self.scratch)
        return {"encoder": str(self.encoder(job["model"])), "data": str(data)}

    def encoder(self, model: str) -> Path:
        """Return the folder of an encoder; those of random weights are made."""
        folder = self.minilm if model == "minilm" else self.scratch / f"encoder-{model}"
        if not folder.exists():
            made = {"piece": "encoders.make", "config": SHAPES[model], "folder": str(folder)}
            if "failed" in (done := self.run(made | {"tokenizer": str(self.minilm)})):
                raise SystemExit(f"the encoder {model} cannot be made: {done['failed']}")
        return folder
