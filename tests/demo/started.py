"""A demo page in a process of its own, and models for it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nlp_transfer.running.run import adapt
from tests.encoder.families import tiny_encoder
from tests.runs import data_for, settings_for

ROOT = Path(__file__).parent.parent.parent
PROBLEMS = ("single_label", "multi_label", "ordinal", "regression", "pair")


def made_run(folder: Path, problem: str) -> Path:
    """The folder of a run on a tiny encoder."""
    if not (folder / "tiny-bert").exists():
        tiny_encoder(folder)
    values = {"strategy": "probe", "evaluation.floors": False}
    return adapt(settings_for(folder, problem, name=problem, **values), data=data_for(problem)).folder


class Runs(dict[str, Path]):
    """A run of every problem, each made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def __missing__(self, problem: str) -> Path:
        self[problem] = made_run(self._folder, problem)
        return self[problem]


@dataclass
class Page:
    process: subprocess.Popen
    url: str

    def end(self, number: int) -> tuple[int, str, str, float]:
        """Send a signal; return the exit status, what was printed, and how many seconds it took."""
        began = time.monotonic()
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err, time.monotonic() - began


@contextmanager
def started(run: Path, temporary: Path) -> Iterator[Page]:
    """Start the page of a model at a free port, without a browser, with a folder for its temporary files."""
    command = [sys.executable, "-m", "nlp_transfer", "demo", str(run), "demo.port=0", "demo.browser=false"]
    environment = os.environ | {"TMPDIR": str(temporary)}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        line = process.stderr.readline()
        assert "can be tried at" in line, line + process.stderr.read()
        yield Page(process, line.split(" at ")[1].split(",")[0])
    finally:
        process.kill()
        process.communicate()
