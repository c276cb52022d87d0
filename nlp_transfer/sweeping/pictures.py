"""Charts of a sweep: parallel coordinates of all keys, and the figure against one key."""

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

_LOGARITHMIC = 20.0  # ratio of the largest to the smallest value from which an axis is logarithmic
_MAX_NAME = 18  # characters of a tick label
_SPACING = 130  # pixels between two coordinates


@dataclass(frozen=True)
class Axis:
    """The values of one key over all runs, scaled to an axis.

    Attributes:
        key: the name of the key.
        positions: (runs,) from 0 to 1.
        ticks: positions with their labels.
    """

    key: str
    positions: np.ndarray
    ticks: Sequence[tuple[float, str]]

    @classmethod
    def of(cls, key: str, values: Sequence[str]) -> Axis:
        """Return the axis of values as typed: numbers by size, texts in order of appearance."""
        numbers = _numbers(values)
        if numbers is None:
            names = list(dict.fromkeys(values))
            intervals = max(1, len(names) - 1)
            positions = np.array([names.index(value) for value in values]) / intervals
            return cls(key, positions, [(index / intervals, _short(name)) for index, name in enumerate(names)])
        low, high = numbers.min(), numbers.max()
        scale = np.log if low > 0 and high >= _LOGARITHMIC * low else np.asarray
        width = float(scale(high) - scale(low)) or 1.0
        marked = np.unique(numbers)
        if len(marked) > 5:
            even = np.linspace(scale(low), scale(high), 4)
            marked = np.exp(even) if scale is np.log else even
        ticks = [
            (float(scale(each) - scale(low)) / width, brief(repr(float(each))).removesuffix(".0")) for each in marked
        ]
        return cls(key, (scale(numbers) - scale(low)) / width, ticks)


def _numbers(values: Sequence[str]) -> np.ndarray | None:
    """Return texts as numbers, or None if one of them is not a finite number."""
    try:
        numbers = np.array([float(value) for value in values])
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None


def parallel(through: Sequence[Axis], figures: Sequence[float], *, name: str, score: str, higher: bool) -> str:
    """Draw every run as a line through its values to its figure (parallel coordinates).

    Args:
        through: the axes of the keys.
        figures: (runs,) nan for a run that was ended early; the best comes first.
        name: of the drawing.
        score: the name of the figure.
        higher: whether higher figures are better.
    """
    last = Axis.of(score.rpartition(" ")[2], [repr(each) for each in figures if not math.isnan(each)])
    ends = iter(last.positions)
    with themed():
        figure, (plot,) = axes(width=max(WIDTH, _SPACING * (len(through) + 1)), height=HEIGHT + 20)
        lines = []
        for run, value in enumerate(figures):
            points = [axis.positions[run] for axis in through]
            lines.append(points if math.isnan(value) else [*points, next(ends)])
        for run in reversed(range(len(lines))):
            points, is_pruned = lines[run], math.isnan(figures[run])
            alpha = 1.0 if run == 0 else 0.75 - 0.55 * run / len(lines)
            colour = MUTED if is_pruned else ORANGE if run == 0 else BLUE
            style = "--" if is_pruned else "-"
            plot.plot(points, style, color=colour.stand_in, alpha=alpha, linewidth=2.6 if run == 0 else 1.4)
        box = {"boxstyle": "round,pad=0.15", "facecolor": PAPER.stand_in, "edgecolor": "none", "alpha": 0.8}
        for index, axis in enumerate((*through, last)):
            plot.axvline(index, color=LINE.stand_in, linewidth=1.2, zorder=0)
            for position, text in axis.ticks:
                plot.text(index + 0.04, position, text, fontsize=10.5, va="center", bbox=box)
        plot.set_xticks(range(len(through) + 1), [_short(axis.key) for axis in (*through, last)])
        plot.set(xlim=(-0.1, len(through) + 0.45), ylim=(-0.06, 1.06))
        _bare(plot)
        best = "highest" if higher else "lowest"
        return svg_of(
            figure, name=name, label=f"Runs through the values of {len(through)} keys; the {best} {score} is chosen"
        )


def against(axis: Axis, figures: Sequence[float], *, name: str, score: str, higher: bool) -> str:
    """Draw the figure of every run against its value of one key; for the arguments see `parallel`."""
    with themed():
        figure, (plot,) = axes()
        values = np.asarray(figures, dtype=np.float64)
        plot.plot(axis.positions[1:], values[1:], "o", color=BLUE.stand_in, alpha=0.7)
        plot.plot(axis.positions[:1], values[:1], "o", color=ORANGE.stand_in, markersize=8)
        plot.set_xticks([position for position, _ in axis.ticks], [text for _, text in axis.ticks])
        plot.set(xlabel=_short(axis.key), ylabel=score, xlim=(-0.08, 1.08))
        best = "highest" if higher else "lowest"
        return svg_of(figure, name=name, label=f"{score} against {axis.key}; the {best} is chosen")


def _bare(plot: Axes) -> None:
    plot.set_yticks([])
    plot.grid(visible=False)
    for side in ("left", "bottom"):
        plot.spines[side].set_visible(False)
    plot.tick_params(length=0)


def _short(name: str) -> str:
    """Return a name that fits below an axis: of a long dotted key only the last part."""
    return shortened(name if len(name) <= _MAX_NAME else name.rpartition(".")[2], _MAX_NAME)
