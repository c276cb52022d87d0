"""Folders of rows for several tasks, and settings to train them together on a tiny encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nlp_transfer.composing.words import from_mapping
from nlp_transfer.multitask.outcome import MultitaskOutcome
from nlp_transfer.multitask.task_set import TaskSet, read_tasks
from nlp_transfer.multitask.together import adapt_together
from nlp_transfer.terminal.console import Screen
from tests.runs import QUICK, rows

SILENT = Screen(quiet=True)
KINDS = ("single_label", "soft", "multi_label", "ordinal", "regression")
_TOLD = ("multi_label", "ordinal", "regression")
_QUICK = QUICK | {"training.epochs": 1}


def write_task(folder: Path, problem: str = "single_label", name: str | None = None, *, seed: int = 0) -> str:
    """Write the rows of a task; return the word that stands for it."""
    place = folder / (name or problem)
    place.mkdir(parents=True)
    for split, (count, draw) in {"train": (24, 1), "validation": (16, 2), "test": (16, 3)}.items():
        lines = map(json.dumps, rows(problem, count, 10 * seed + draw))
        (place / f"{split}.jsonl").write_text("\n".join(lines))
    return f"{place} data.problem={problem}" if problem in _TOLD else str(place)


def make_task_set(home: Path, tasks: list[str], **values: Any) -> TaskSet:
    """Return what is make_task_set for, on the tiny encoder of a folder."""
    words = from_mapping(_QUICK | {"encoder.name": str(home / "tiny-bert"), "output": str(home / "runs")} | values)
    return read_tasks(None, words, SILENT, tasks=tasks)


def together(home: Path, tasks: list[str], **values: Any) -> MultitaskOutcome:
    """Learn them."""
    return adapt_together(make_task_set(home, tasks, **values), SILENT)
