"""One run of a sweep and what became of it. Its figure is that of the validation rows: test rows choose nothing."""

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
    """A run of a sweep after it has ended.

    Attributes:
        words: key=value words that make it, beside the recipe.
        state: finished, failed, pruned (ended early, for its figure lagged behind) or stopped (with the sweep).
        status: exit status of its process.
        folder: of the run; None where that is not known.
        metric: by which runs are chosen among.
        figure: of that on the validation rows; None where there is none.
        seconds: that its training took.
        fingerprint: of its data.
        said: what it said last, where that went into a file.
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
        """The words as one types them."""
        return shlex.join(self.words)

    @property
    def value(self) -> float:
        """The figure as a sweeper takes it: nan where there is none."""
        return math.nan if self.figure is None or self.state != FINISHED else self.figure

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self) | {"words": list(self.words)}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Job:
        """Return the job that `to_json` made these of."""
        return cls(**plain | {"words": tuple(plain["words"])})


def ended(words: tuple[str, ...], status: int, output: str, *, said: str = "") -> Job:
    """Return what became of a run that ended by itself.

    Args:
        words: of it.
        status: of its process.
        output: its standard output, whose last line is JSON.
        said: what it said last.
    """
    if status not in (0, PushFailed.status):  # what was not pushed is finished all the same
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
        return Job(words, FAILED, status, said=f"it left no figures that can be read ({error})")
