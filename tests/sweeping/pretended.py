"""A launcher whose runs only compute a function of their overrides."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nlp_transfer import config
from nlp_transfer.evaluation.intervals import Interval
from nlp_transfer.evaluation.report import PredictorScores, Report

Figures = Callable[[dict[str, str]], list[float]]


class Place:
    """A place for so many runs at once.

    Args:
        figures: returns the validation figures of a run by its values, evaluation by evaluation; the last one counts.
            A run without any fails, and one below zero is none.
        slots: how many at once.
        watched: whether anybody looks at evaluations.

    Attributes:
        started: the values of the runs, in the order in which they were begun.
        most: how many went on at once.
    """

    def __init__(self, figures: Figures, *, slots: int = 1, watched: bool = False) -> None:
        self._figures, self.slots, self.watched = figures, slots, watched
        self.started: list[dict[str, str]] = []
        self.most, self.now = 0, 0

    def start(self, words: Sequence[str], log: Path | None) -> Run:
        values = dict(word.partition("=")[::2] for word in words)
        self.started.append(values)
        self.now += 1
        self.most = max(self.most, self.now)
        return Run(self, words, self._figures(values), log)


class Run:
    """A run that makes one evaluation whenever it is looked at."""

    def __init__(self, place: Place, words: Sequence[str], figures: list[float], log: Path | None) -> None:
        self._folder = Path("runs", hashlib.sha256(json.dumps(list(words)).encode()).hexdigest())
        if place.watched:  # then it has to lie where a real one would, which takes a while to find out
            settings = config.compose(None, words)
            self._folder = config.run_path(settings)
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "metrics.jsonl").unlink(missing_ok=True)
        (self._folder / "plan.json").write_text('{"problem": "single_label"}')
        self._place, self._left, self._figures, self._log = place, list(figures), figures, log
        self._status: int | None = None
        self.ended = False

    def poll(self) -> int | None:
        if self._status is None and self._left and not self.ended:
            with (self._folder / "metrics.jsonl").open("a") as lines:
                lines.write(json.dumps({"split": "validation", "macro_f1": self._left.pop(0), "step": 1}) + "\n")
        elif self._status is None:
            self._place.now -= 1
            self._status = 143 if self.ended else 0 if self._figures else 2
            if self._log and self._status == 2:
                self._log.write_text("nlp-transfer: it was to fail\nTraceback of a launcher\n")
        return self._status

    def end(self) -> None:
        self.ended = True

    def kill(self) -> None:
        self._status = -9

    def output(self) -> str:
        if self._status:
            return ""
        report = report_of("test")
        result = {"report": report, "seconds": 1.5, "data": {"fingerprint": "f"}}
        result |= {"validation": {} if self._figures[-1] < 0 else {"macro_f1": self._figures[-1]}}
        (self._folder / "metrics.json").write_text(json.dumps(result))
        return json.dumps({"folder": str(self._folder), "report": report}) + "\n"


def report_of(split: str) -> dict[str, Any]:
    """Return what a run reports of a few rows, as JSON has it."""
    rows = [PredictorScores("model", {"macro_f1": Interval(0.123, 0.1, 0.2)})]
    return Report(split, 7, "macro_f1", 0.95, rows, math.nan, math.nan, 1.0, [], [], None).to_json()


def drawn(values: dict[str, str]) -> list[float]:
    """Return a pseudo-random figure that depends on the values only."""
    return [int(hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:6], 16) / 16**6]
