"""The results file of a benchmark: one JSON line per measurement, so that nothing is measured twice."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Line = dict[str, Any]


class ResultsFile:
    """Measurements, each appended to a file as soon as it is done.

    A line holds the keys of its job (what was to be measured) and the figures that were measured.

    Attributes:
        lines: all measurements, oldest first.
    """

    def __init__(self, path: Path | None) -> None:
        """Read the existing measurements; without a file they are kept in memory."""
        self._path = path
        complete = _complete_lines(path) if path is not None and path.exists() else []
        self.lines: list[Line] = list(map(json.loads, complete))

    def find(self, job: Mapping[str, Any]) -> Line | None:
        """Return the first measurement whose keys and values include those of the job, or None."""
        return next((line for line in self.lines if job.items() <= line.items()), None)

    def missing(self, jobs: list[Line]) -> list[Line]:
        """Return the jobs that were not measured yet."""
        return [job for job in jobs if self.find(job) is None]

    def select(self, jobs: list[Line]) -> list[Line]:
        """Return the measurements of the jobs, in their order; jobs that were not measured are left out."""
        found = [self.find(job) for job in jobs]
        return [line for line in found if line is not None]

    def add(self, line: Line) -> Line:
        """Append a measurement, and return it."""
        self.lines.append(line)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as out:
                out.write(json.dumps(line) + "\n")
        return line


def _complete_lines(path: Path) -> list[bytes]:
    """Return the lines of a file; a last line that was cut off when its process was killed is removed from the file."""
    *complete, partial = path.read_bytes().split(b"\n")
    if partial:
        os.truncate(path, path.stat().st_size - len(partial))
    return complete
