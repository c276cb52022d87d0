"""Running jobs in processes of their own, and the file of their results."""

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
    """The files of a benchmark and the results that are known.

    Attributes:
        data: folder with one folder per data set.
        results: JSON lines; each result is appended as soon as it is measured.
        scratch: folder for the files that jobs read and write.
        minilm: folder of the default encoder.
        threads: number of threads of every job.
        again: whether results in the file are measured again.
        began: start time; marks the results that this call measures.
        known: known results by key, a digest of what they depend on.
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
        """Processor time ("cpu") with one thread, which other work on the machine changes least; otherwise "wall"."""
        return "cpu" if self.threads == 1 else "wall"

    def measured(self, job: Job) -> Result:
        """Return the known result of a job, or run the job and append its result to the file.

        Results of jobs that were skipped or failed are not appended, so these are tried again next time.
        """
        job = job | {"threads": self.threads}
        inputs = {
            "job": job,
            "data": texts.digest(job, self.data),
            "code": machine.code(job["piece"].split(".")[0]),
            "versions": machine.versions(),
            "processor": machine.processor(),
        }
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
        if key not in self.known:
            figures = self.run(job | self.files(job))
            row = {"key": key, "began": self.began, **inputs, **figures}
            if "skipped" in figures or "failed" in figures:
                return row
            self.known[key] = row
            with self.results.open("a") as out:
                out.write(json.dumps(row) + "\n")
        return self.known[key]

    def run(self, job: Job) -> Result:
        """Run a job in a process of its own; return its figures, or `failed` with the reason."""
        command = [sys.executable, "-m", "recipes.benchmarks.timing.child", json.dumps(job)]
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True)
        if done.returncode:
            print(done.stderr[-1000:], file=sys.stderr)
            return {"failed": (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]}
        return json.loads(done.stdout.splitlines()[-1])

    def environment(self) -> dict[str, str]:
        """Return the environment of a process: its threads, and an empty home, so that no earlier cache is used."""
        home = tempfile.mkdtemp(dir=self.scratch)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "NLP_TRANSFER"))}
        offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"), "1")
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(self.threads))
        places = {"HOME": home, "XDG_CACHE_HOME": f"{home}/.cache", "PYTHONPATH": str(ROOT)}
        return kept | offline | threads | places | {"TOKENIZERS_PARALLELISM": "false"}

    def files(self, job: Job) -> Job:
        """Return the folders that a job reads, which are created if missing."""
        if "model" not in job:
            return {}
        data = texts.job_folder(job, source=self.data, scratch=self.scratch)
        return {"encoder": str(self.encoder(job["model"])), "data": str(data)}

    def encoder(self, model: str) -> Path:
        """Return the folder of an encoder; encoders with random weights are created."""
        folder = self.minilm if model == "minilm" else self.scratch / f"encoder-{model}"
        if not folder.exists():
            made = {"piece": "encoders.make", "config": SHAPES[model], "folder": str(folder)}
            if "failed" in (done := self.run(made | {"tokenizer": str(self.minilm)})):
                raise SystemExit(f"the encoder {model} cannot be created: {done['failed']}")
        return folder
