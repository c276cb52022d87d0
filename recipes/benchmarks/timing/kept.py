"""What a benchmark has found, one JSON line each, so that an interrupted one goes on and nothing is measured twice."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Line = dict[str, Any]


class Kept:
    """The lines of a file, to which new ones are appended at once.

    Attributes:
        lines: what was asked and what was found, in the order in which it was.
    """

    def __init__(self, path: Path | None) -> None:
        """Read what is there; without a file, lines are kept as long as the process lives."""
        self._path = path
        whole = _whole_lines(path) if path is not None and path.exists() else []
        self.lines: list[Line] = list(map(json.loads, whole))

    def find(self, asked: Mapping[str, Any]) -> Line | None:
        """Return what was found where the same was asked, with more beside it or not."""
        return next((line for line in self.lines if asked.items() <= line.items()), None)

    def missing(self, wanted: list[Line]) -> list[Line]:
        """Return what was not yet asked of what is wanted."""
        return [asked for asked in wanted if self.find(asked) is None]

    def of(self, wanted: list[Line]) -> list[Line]:
        """Return what was found for each of what is wanted, all of which has been measured."""
        found = [self.find(asked) for asked in wanted]
        return [line for line in found if line is not None]

    def add(self, line: Line) -> Line:
        """Keep a line, and return it."""
        self.lines.append(line)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as out:
                out.write(json.dumps(line) + "\n")
        return line


def _whole_lines(path: Path) -> list[bytes]:
    """Return the lines of a file, from which a last one is taken away that was cut off when its process was killed."""
    *whole, torn = path.read_bytes().split(b"\n")
    if torn:
        os.truncate(path, path.stat().st_size - len(torn))
    return whole
