"""The outcome of a multitask training, as values and in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nlp_transfer.evaluation.formatting import format_interval
from nlp_transfer.evaluation.intervals import Interval
from nlp_transfer.evaluation.plain_values import without_nan

TOGETHER = "all tasks"  # no task can have this name
_SAID = {"better": "is better", "worse": "is WORSE"}
_PAIRS = {"better": "help", "worse": "HURT"}


@dataclass(frozen=True)
class TaskResult:
    """The result of one task.

    Attributes:
        name: of the task.
        folder: of its run.
        rows: the number of its training rows.
        split: the measured split.
        metric: that decides.
        together: the value of that metric.
        verdict: of the model against its baselines.
    """

    name: str
    folder: Path
    rows: int
    split: str
    metric: str
    together: Interval
    verdict: str


@dataclass(frozen=True)
class MultitaskGain:
    """The gain of a task from training with others, against training alone on the same rows.

    Attributes:
        task: the name of the task.
        teacher: the task it was trained with, or `TOGETHER` for all others.
        difference: its metric minus that of training alone, with its paired bootstrap interval over the measured rows.
        p: of the difference, after Holm's correction for all tasks, or for all pairs.
        outcome: better or worse if `p` is less than 1 - confidence, else no evidence.
    """

    task: str
    teacher: str
    difference: Interval
    p: float
    outcome: str

    @property
    def words(self) -> str:
        """The difference with its interval."""
        return format_interval(self.difference, signed=True)


@dataclass(frozen=True)
class MultitaskOutcome:
    """A finished multitask training.

    Attributes:
        folder: of the training, which contains the folder of each task.
        tasks: the result of each task.
        gains: of each task from all others, then from each other one; empty if nothing was compared.
    """

    folder: Path
    tasks: list[TaskResult]
    gains: list[MultitaskGain] = field(default_factory=list)

    def gain(self, task: str, teacher: str) -> MultitaskGain | None:
        """Return the gain of a task from another one, or from all (`TOGETHER`); None if not measured."""
        return next((each for each in self.gains if (each.task, each.teacher) == (task, teacher)), None)

    @property
    def matrix(self) -> dict[str, dict[str, MultitaskGain]]:
        """Gains by teacher, then by task; empty if pairs were not trained."""
        matrix: dict[str, dict[str, MultitaskGain]] = {}
        for each in self.gains:
            if each.teacher != TOGETHER:
                matrix.setdefault(each.teacher, {})[each.task] = each
        return matrix

    @property
    def verdict(self) -> list[str]:
        """Sentences: which tasks gain or lose from the others, and which pairs help or hurt."""
        if not self.gains:
            return []
        joint_gains = [each for each in self.gains if each.teacher == TOGETHER]
        sentences = [
            f"{task.name} {_SAID[gain.outcome]} with all others: {gain.words}."
            for task in self.tasks
            if (gain := self.gain(task.name, TOGETHER)) is not None and gain.outcome != "no evidence"
        ] or [f"No evidence that any of the {len(joint_gains)} tasks is better or worse with the others."]
        if self.matrix:
            pair_gains = [each for row in self.matrix.values() for each in row.values()]
            for outcome in ("worse", "better"):
                chosen = [each for each in pair_gains if each.outcome == outcome]
                pairs = "; ".join(f"{each.task} with {each.teacher} ({each.words})" for each in chosen)
                sentences.append(f"Pairs that {_PAIRS[outcome]}: {pairs or 'none for certain'}.")
        return [*sentences, "One training of each: another seed may say otherwise."]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, with None in place of nan, and the verdict."""
        plain = asdict(self) | {"folder": str(self.folder)}
        for task in plain["tasks"]:
            task["folder"] = str(task["folder"])
        return without_nan(plain) | {"verdict": self.verdict}
