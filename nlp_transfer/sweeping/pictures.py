"""Pictures of a sweep: runs through the values of all keys, and the figure against one key. They know no run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.reporting.drawing import HEIGHT, WIDTH, axes, svg_of, themed
from nlp_transfer.reporting.palette import BLUE, LINE, MUTED, ORANGE, PAPER
from nlp_transfer.sweeping.results import brief
from nlp_transfer.wording import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOGARITHMIC = 20.0  # how many times the least value the greatest is, from which an axis is logarithmic
_NAME = 18  # characters
_APART = 130  # pixels between two coordinates


@dataclass(frozen=True)
class Axis:
    """What runs have of one key.

    Attributes:
        key: its name.
        places: (runs,) from 0 to 1.
        ticks: places with what stands there.
    """

    key: str
    places: np.ndarray
    ticks: Sequence[tuple[float, str]]

    @classmethod
    def of(cls, key: str, values: Sequence[str]) -> Axis:
        """Return the axis of values as they were typed: numbers by size, texts in the order in which they come."""
        numbers = _numbers(values)
        if numbers is None:
            names = list(dict.fromkeys(values))
            between = max(1, len(names) - 1)
            places = np.array([names.index(value) for value in values]) / between
            return cls(key, places, [(place / between, _short(name)) for place, name in enumerate(names)])
        low, high = numbers.min(), numbers.max()
        scale = np.log if low > 0 and high >= _LOGARITHMIC * low else np.asarray
        width = float(scale(high) - scale(low)) or 1.0
        seen = np.unique(numbers)
        if len(seen) > 5:
            even = np.linspace(scale(low), scale(high), 4)
            seen = np.exp(even) if scale is np.log else even
        ticks = [
            (float(scale(each) - scale(low)) / width, brief(repr(float(each))).removesuffix(".0")) for each in seen
        ]
        return cls(key, (scale(numbers) - scale(low)) / width, ticks)


def _numbers(values: Sequence[str]) -> np.ndarray | None:
    """Return texts as numbers; None where one is none, or none that has a place on an axis."""
    try:
        numbers = np.array([float(value) for value in values])
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None


def parallel(through: Sequence[Axis], figures: Sequence[float], *, name: str, score: str, higher: bool) -> str:
    """Draw every run as a line through its values to its figure.

    Args:
        through: the keys.
        figures: (runs,) nan where a run was ended early; the best comes first.
        name: of the figure.
        score: what is measured.
        higher: whether more of it is better.
    """
    last = Axis.of(score.rpartition(" ")[2], [repr(each) for each in figures if not math.isnan(each)])
    ends = iter(last.places)
    with themed():
        figure, (plot,) = axes(width=max(WIDTH, _APART * (len(through) + 1)), height=HEIGHT + 20)
        drawn = []
        for run, value in enumerate(figures):
            points = [axis.places[run] for axis in through]
            drawn.append(points if math.isnan(value) else [*points, next(ends)])
        for run in reversed(range(len(drawn))):
            points, early = drawn[run], math.isnan(figures[run])
            shade = 1.0 if run == 0 else 0.75 - 0.55 * run / len(drawn)
            colour = MUTED if early else ORANGE if run == 0 else BLUE
            look = "--" if early else "-"
            plot.plot(points, look, color=colour.stand_in, alpha=shade, linewidth=2.6 if run == 0 else 1.4)
        for place, axis in enumerate((*through, last)):
            plot.axvline(place, color=LINE.stand_in, linewidth=1.2, zorder=0)
            for at, words in axis.ticks:
                beside = {"boxstyle": "round,pad=0.15", "facecolor": PAPER.stand_in, "edgecolor": "none", "alpha": 0.8}
                plot.text(place + 0.04, at, words, fontsize=10.5, va="center", bbox=beside)
        plot.set_xticks(range(len(through) + 1), [_short(axis.key) for axis in (*through, last)])
        plot.set(xlim=(-0.1, len(through) + 0.45), ylim=(-0.06, 1.06))
        _bare(plot)
        best = "highest" if higher else "lowest"
        return svg_of(
            figure, name=name, label=f"Runs through the values of {len(through)} keys; the {best} {score} is chosen"
        )


def against(axis: Axis, figures: Sequence[float], *, name: str, score: str, higher: bool) -> str:
    """Draw the figure of every run against what it has of one key; for the arguments see `parallel`."""
    with themed():
        figure, (plot,) = axes()
        values = np.asarray(figures, dtype=np.float64)
        plot.plot(axis.places[1:], values[1:], "o", color=BLUE.stand_in, alpha=0.7)
        plot.plot(axis.places[:1], values[:1], "o", color=ORANGE.stand_in, markersize=8)
        plot.set_xticks([at for at, _ in axis.ticks], [words for _, words in axis.ticks])
        plot.set(xlabel=_short(axis.key), ylabel=score, xlim=(-0.08, 1.08))
        best = "highest" if higher else "lowest"
        return svg_of(figure, name=name, label=f"{score} against {axis.key}; the {best} is chosen")


def _bare(plot: Axes) -> None:
    plot.set_yticks([])
    plot.grid(visible=False)
    for side in ("left", "bottom"):
        plot.spines[side].set_visible(False)
    plot.tick_params(length=0)


def _short(words: str) -> str:
    """Return words that fit below an axis: of a long key its last part, which tells the most."""
    return shortened(words if len(words) <= _NAME else words.rpartition(".")[2], _NAME)
