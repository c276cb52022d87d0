"""What several tasks that learned together came to, as values and in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nlp_transfer.evaluation.formatting import format_interval
from nlp_transfer.evaluation.intervals import Interval
from nlp_transfer.evaluation.plain_values import without_nan

TOGETHER = "all tasks"  # no task can be called so
_SAID = {"better": "is better", "worse": "is WORSE"}
_PAIRS = {"better": "help", "worse": "HURT"}


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
class Gain:
    """What a task has of learning with others, against learning alone from the same rows.

    Attributes:
        task: which.
        teacher: the one that it learned with, or `TOGETHER`: all of them.
        difference: its metric with them minus that alone, with its paired bootstrap interval over the measured rows.
        p: of the difference, after Holm's correction for all tasks, or for all pairs.
        outcome: better or worse where `p` is less than 1 - confidence, else no evidence.
    """

    task: str
    teacher: str
    difference: Interval
    p: float
    outcome: str

    @property
    def words(self) -> str:
        """By how much, with the interval."""
        return format_interval(self.difference, signed=True)


@dataclass(frozen=True)
class Outcome:
    """A finished training of several tasks.

    Attributes:
        folder: where it lies, with the folder of each task in it.
        tasks: how each fares.
        gains: of each task from all of them, then from each other one; none where nothing was to be compared.
    """

    folder: Path
    tasks: list[Learned]
    gains: list[Gain] = field(default_factory=list)

    def gain(self, task: str, teacher: str) -> Gain | None:
        """Return what a task has of another one, or of all (`TOGETHER`)."""
        return next((each for each in self.gains if (each.task, each.teacher) == (task, teacher)), None)

    @property
    def matrix(self) -> dict[str, dict[str, Gain]]:
        """By the task that teaches, by the one that is taught: the transfer; empty where pairs were not tried."""
        found: dict[str, dict[str, Gain]] = {}
        for each in self.gains:
            if each.teacher != TOGETHER:
                found.setdefault(each.teacher, {})[each.task] = each
        return found

    @property
    def verdict(self) -> list[str]:
        """Sentences: whom it helped to learn with the others, whom it hurt, and which pairs hurt."""
        if not self.gains:
            return []
        every = [each for each in self.gains if each.teacher == TOGETHER]
        said = [
            f"{task.name} {_SAID[gain.outcome]} with all others: {gain.words}."
            for task in self.tasks
            if (gain := self.gain(task.name, TOGETHER)) is not None and gain.outcome != "no evidence"
        ] or [f"No evidence that any of the {len(every)} tasks is better or worse with the others."]
        if self.matrix:
            for outcome in ("worse", "better"):
                of = [each for row in self.matrix.values() for each in row.values() if each.outcome == outcome]
                pairs = "; ".join(f"{each.task} with {each.teacher} ({each.words})" for each in of)
                said.append(f"Pairs that {_PAIRS[outcome]}: {pairs or 'none for certain'}.")
        return [*said, "One training of each: another seed may say otherwise."]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; what is undefined is None, and the verdict stands beside the figures."""
        plain = asdict(self) | {"folder": str(self.folder)}
        for task in plain["tasks"]:
            task["folder"] = str(task["folder"])
        return without_nan(plain) | {"verdict": self.verdict}
