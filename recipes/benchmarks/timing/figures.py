"""Rates, ratios and goals from results, as cells of tables. Pure arithmetic: nothing is run."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from recipes.benchmarks.timing.works import FEW, Goal, Work

PARITY = 0.005  # a speed-up does not count if the mean accuracy (or cosine) is lower by more than this
UNITS = {"speed": "{:.3g}×", "memory": "{:.2f}×", "share": "{:.0%}", "seconds": "{:.3g} s"}
GOALS = ("work", "ours", "against", "measured", "at most", "must", "stretch", "reached")
METHODS = (
    *("work", "method", "timed", "seconds", "spread", "texts/s", "tokens/s", "share of GEMM", "peak MB"),
    *("accuracy", "mean loss"),
)

Result = dict[str, Any]


@dataclass(frozen=True)
class Figures:
    """The results of a work's methods, one per repeat.

    Attributes:
        work: the work that was measured.
        results: results by method.
        gemm: GFLOP/s of the machine, by precision and width, see gemm.py.
        clock: "cpu" or "wall".
    """

    work: Work
    results: dict[str, list[Result]]
    gemm: Result
    clock: str

    def good(self, method: str) -> list[Result]:
        """Return the results that have figures."""
        return [result for result in self.results[method] if self.clock in result]

    def missing_reason(self, method: str) -> str | None:
        """Return why a method has no figures, or None where it has some."""
        if self.good(method):
            return None
        first = self.results[method][0]
        return first.get("skipped") or f"failed: {first['failed']}"

    def seconds(self, result: Result) -> float:
        """Return the time of the steps that are timed; where there are none, the whole time."""
        return result["steady"][self.clock] if "steady" in result else result[self.clock]

    def rate(self, method: str) -> float:
        """Return the median of texts per second; in five epochs each text counts five times, even if it is cached."""
        return statistics.median(self._texts(result) / self.seconds(result) for result in self.good(method))

    def peak(self, method: str) -> float:
        """Return the median of peak memory, MB."""
        return statistics.median(result["peak_mb"] for result in self.good(method))

    def share(self, method: str) -> float | None:
        """Return the rate of operations on real tokens in the layers, as a share of GEMM's in the faster precision.

        None for works that are not compared with GEMM, and for encoders of a width that was not measured.
        """
        first = self.good(method)[0]
        width = first.get("width")
        peak = max(self.gemm.get(f"{precision}_{width}", 0.0) for precision in ("fp32", "bf16"))
        if not self.work.passes or not peak:
            return None
        layers = first["layers"]
        flops = self.work.passes * layers * (24 * width * width * first["tokens"] + 4 * width * first["squares"])
        return self.rate(method) * flops / (peak * 1e9)

    def measured(self, goal: Goal) -> float | str:
        """Return the figure of a goal, or the reason why there is none."""
        for method in filter(None, (goal.ours, goal.against)):
            if reason := self.missing_reason(method):
                return reason
        if goal.figure == "seconds":
            return statistics.median(map(self.seconds, self.good(goal.ours)))
        if goal.figure == "share":
            share = self.share(goal.ours)
            assert share is not None, "only works with forward passes have this goal"
            return share
        assert goal.against is not None, "speed and memory are compared with a peer"
        if goal.figure == "memory":
            return self.peak(goal.ours) / self.peak(goal.against)
        return self.rate(goal.ours) / self.rate(goal.against)

    def at_most(self, goal: Goal) -> float | None:
        """Return the largest possible speed-up over the peer: that of a work which only multiplied matrices.

        None for goals other than speed, and where the peer's share of GEMM is not known.
        """
        known = goal.figure == "speed" and goal.against is not None and not self.missing_reason(goal.against)
        share = self.share(goal.against) if known and goal.against else None
        return None if share is None else 1 / share

    def is_worse(self, goal: Goal) -> bool:
        """Whether our mean accuracy or cosine is lower than the peer's by more than PARITY and its standard error.

        The standard error is that of the mean difference of repeats, which have the same seed and rows. Accuracies of
        trainings on other rows or with other numbers of epochs are not compared.
        """
        if goal.figure != "speed" or goal.against is None:
            return False
        keys = ("rows", "epochs", "seed", "held_out")
        pairs = [
            (_quality(own), _quality(peer))
            for own, peer in zip(self.good(goal.ours), self.good(goal.against), strict=False)
            if all(own["job"].get(key) == peer["job"].get(key) for key in keys)
        ]
        differences = [peer - own for own, peer in pairs if own is not None and peer is not None]
        if not differences:
            return False
        error = statistics.stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else 0.0
        return statistics.fmean(differences) > max(PARITY, error)

    def goal_rows(self) -> Iterator[list[str]]:
        """Yield a row per goal, with the columns GOALS."""
        for goal in self.work.goals:
            unit, value = UNITS[goal.figure], self.measured(goal)
            shown = value if isinstance(value, str) else unit.format(value)
            worse = not isinstance(value, str) and self.is_worse(goal)
            subject = {"memory": "memory", "share": "GEMM", "seconds": ""}.get(goal.figure, "")
            yield [
                self.name,
                goal.ours,
                " ".join(filter(None, (subject, "of" * bool(subject and goal.against), goal.against))) or "–",
                f"({shown})" if worse else shown,
                "–" if (most := self.at_most(goal)) is None else unit.format(most),
                unit.format(goal.must),
                "–" if goal.stretch is None else unit.format(goal.stretch),
                "worse result" if worse else _reached(goal, value),
            ]

    def method_rows(self) -> Iterator[list[str]]:
        """Yield a row per method, with the columns METHODS."""
        for method in self.results:
            if reason := self.missing_reason(method):
                yield [self.name, method, reason, *[""] * (len(METHODS) - 3)]
                continue
            good = self.good(method)
            timed = "steps" if "steady" in good[0] else "all"
            seconds = [self.seconds(result) for result in good]
            middle = statistics.median(seconds)
            texts = self.rate(method) if "tokens" in good[0] else None
            share = self.share(method)
            yield [
                self.name,
                method + setting(good[0]),
                timed,
                f"{middle:.2f}",
                f"{(max(seconds) - min(seconds)) / middle:.0%}" if len(good) > 1 else "",
                f"{texts:.1f}" if texts is not None else "",
                f"{texts * good[0]['tokens']:.0f}" if texts is not None else "",
                f"{share:.0%}" if share is not None else "",
                f"{self.peak(method):.0f}",
                _mean(map(_quality, good), "cos {:.4f}" if "cosine" in good[0] else "{:.3f}"),
                _mean((result.get("loss") for result in good), "{:.3f}"),
            ]

    @property
    def name(self) -> str:
        """The work's name, marked where its results were measured in several sessions."""
        began = {result["began"] for method in self.results for result in self.good(method)}
        return self.work.name + " †" * (len(began) > 1)

    def _texts(self, result: Result) -> float:
        return result["steady_texts"] if "steady" in result else result["job"]["rows"] * result["job"].get("epochs", 1)


def setting(result: Result) -> str:
    """Return the setting of Trainer with dynamic padding, as text for a table."""
    variant = result["job"].get("variant")
    if not variant or not variant["dynamic"]:
        return ""
    return f" ({'bf16' if variant['bf16'] else 'fp32'}{', grouped' * variant['grouped']})"


def _quality(result: Result) -> float | None:
    """Return the cosine with fp32 or else the accuracy; None where the held-out rows are too few for an accuracy."""
    too_few = result["job"].get("held_out", 0) <= FEW
    return result.get("cosine", None if too_few else result.get("accuracy"))


def _reached(goal: Goal, value: float | str) -> str:
    if isinstance(value, str):
        return "–"
    sign = -1 if goal.figure in ("memory", "seconds") else 1
    if goal.stretch is not None and sign * value >= sign * goal.stretch:
        return "stretch"
    return "must" if sign * value >= sign * goal.must else "no"


def _mean(values: Iterable[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return form.format(statistics.fmean(known)) if known else ""
