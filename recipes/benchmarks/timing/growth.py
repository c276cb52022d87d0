"""Growth of the time of each step with the number of rows, the length of texts and the number of classes."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from math import log
from typing import Any

PIECES = WITHOUT, WITH = "steps.without_the_encoder", "steps.with_the_encoder"
# Steps with the encoder take long, so they are measured up to a tenth of the rows only.
AXES: dict[str, dict[str, list[int]]] = {
    "rows": {
        WITHOUT: [10**3, 10**4, 10**5, 10**6],
        WITH: [10**3, 10**4, 10**5],
    },
    "length": {piece: [16, 64, 256, 512] for piece in PIECES},
    "classes": {piece: [2, 10, 100, 1000] for piece in PIECES},
}
QUICK = {"rows": [500, 2000], "length": [16, 64], "classes": [2, 10]}
DEFAULTS = {"rows": 2000, "length": 16, "classes": 2}
MORE_THAN_LINEAR = 1.1  # growth with a larger exponent is flagged; smaller differences to 1 are noise


@dataclass(frozen=True)
class Growth:
    """The times of one step along one axis, sizes ascending."""

    axis: str
    step: str
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]

    @property
    def exponent(self) -> float:
        """Slope of log time over log size through all sizes."""
        return statistics.linear_regression([log(n) for n in self.sizes], [log(t) for t in self.seconds]).slope

    @property
    def last_exponent(self) -> float:
        """The slope between the last two sizes, where constant costs matter least."""
        return log(self.seconds[-1] / self.seconds[-2]) / log(self.sizes[-1] / self.sizes[-2])

    @property
    def is_superlinear(self) -> bool:
        """Whether the time grows faster than the number of rows."""
        return self.axis == "rows" and max(self.exponent, self.last_exponent) > MORE_THAN_LINEAR


def jobs(*, quick: bool) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield (axis, size, job); the jobs use generated texts and a tiny encoder."""
    for axis, pieces in AXES.items():
        for piece, sizes in pieces.items():
            for size in QUICK[axis] if quick else sizes:
                shape = DEFAULTS | ({"rows": 4000} if axis == "classes" and not quick else {}) | {axis: size}
                words = {"strategy": "finetune", "strategy.head_first": False, "tokens.max_length": shape["length"]}
                words |= {"training.micro_batch_tokens": 1024}
                yield (
                    axis,
                    size,
                    {
                        "piece": piece,
                        "model": "tiny",
                        "rows": shape["rows"],
                        "held_out": 100,
                        "generated": {"length": shape["length"], "classes": shape["classes"]},
                        "batch": 32,
                        "epochs": 1,
                        "words": words,
                    },
                )


def growths(measured: list[tuple[str, int, dict[str, Any]]], clock: str) -> list[Growth]:
    """Return the growth of every step from (axis, size, result); steps with a single size are left out."""
    times: dict[tuple[str, str], dict[int, float]] = {}
    for axis, size, result in measured:
        for step, seconds in result.get("laps", {}).items():
            times.setdefault((axis, step), {})[size] = seconds[clock]
    return [
        Growth(axis, step, tuple(sorted(found)), tuple(found[size] for size in sorted(found)))
        for (axis, step), found in times.items()
        if len(found) > 1
    ]
