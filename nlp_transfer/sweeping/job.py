"""The outcome of one run of a sweep. Its figure is measured on validation rows; test rows never select a run."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlp_transfer.errors import PushFailed

FINISHED, FAILED, PRUNED, STOPPED = "finished", "failed", "pruned", "stopped"


@dataclass(frozen=True)
class Job:
    """A run of a sweep that has ended.

    Attributes:
        words: its key=value words, in addition to the recipe.
        state: finished, failed, pruned (ended early because its figure lagged behind) or stopped (with the sweep).
        status: exit status of its process.
        folder: the run folder; None if unknown.
        metric: the metric by which runs are selected.
        figure: the value of the metric on the validation rows; None if there is none.
        seconds: duration of the training.
        fingerprint: of its data.
        said: its last message, if that went to a log file.
    """

    words: tuple[str, ...]
    state: str
    status: int = 0
    folder: str | None = None
    metric: str | None = None
    figure: float | None = None
    seconds: float | None = None
    fingerprint: str | None = None
    said: str = ""

    @property
    def name(self) -> str:
        """The words as they are typed in a shell."""
        return shlex.join(self.words)

    @property
    def value(self) -> float:
        """The figure for the sweeper, nan if there is none."""
        return math.nan if self.figure is None or self.state != FINISHED else self.figure

    def to_json(self) -> dict[str, Any]:
        """Return the job as plain values."""
        return dataclasses.asdict(self) | {"words": list(self.words)}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Job:
        """Return the job of which `to_json` has returned the plain values."""
        return cls(**plain | {"words": tuple(plain["words"])})


def ended(words: tuple[str, ...], status: int, output: str, *, said: str = "") -> Job:
    """Return the outcome of a run that ended by itself.

    Args:
        words: of the run.
        status: exit status of its process.
        output: its standard output, whose last line is JSON.
        said: its last message.
    """
    if status not in (0, PushFailed.status):  # a run whose push failed is finished nevertheless
        return Job(words, FAILED, status, said=said)
    try:
        line = json.loads(output.splitlines()[-1])
        folder, metric = str(line["folder"]), str(line["report"]["metric"])
        result = json.loads((Path(folder) / "metrics.json").read_text(encoding="utf-8"))
        figure = (result.get("validation") or {}).get(metric)
        return Job(
            words, FINISHED, status, folder, metric, figure, result["seconds"], str(result["data"]["fingerprint"]), said
        )
    except (OSError, LookupError, TypeError, ValueError) as error:
        return Job(words, FAILED, status, said=f"it wrote no readable figures ({error})")
