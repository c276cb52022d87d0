"""What several tasks that learned together came to, as values and in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nlp_transfer.evaluation.intervals import Interval
from nlp_transfer.evaluation.plain_values import without_nan


@dataclass(frozen=True)
class Learned:
    """One of the tasks.

    Attributes:
        name: of the task.
        folder: of its run.
        rows: that taught it.
        split: that it was measured on.
        metric: that decides.
        together: that metric.
        verdict: about the model and its floors.
    """

    name: str
    folder: Path
    rows: int
    split: str
    metric: str
    together: Interval
    verdict: str


@dataclass(frozen=True)
class Outcome:
    """A finished training of several tasks.

    Attributes:
        folder: where it lies, with the folder of each task in it.
        tasks: how each fares.
    """

    folder: Path
    tasks: list[Learned]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; what is undefined is None."""
        plain = asdict(self) | {"folder": str(self.folder)}
        for task in plain["tasks"]:
            task["folder"] = str(task["folder"])
        return without_nan(plain)
