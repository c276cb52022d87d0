"""The figures of reports, from numbers to SVG; they know neither runs nor pages.

Every function takes the figure's unique name, which its ids start with, and returns markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nlp_transfer.reporting.drawing import axes, svg_of, themed
from nlp_transfer.reporting.palette import BLUE, INK, LINE, MUTED, ORANGE, PAPER, SERIES
from nlp_transfer.wording import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

_MOST_POINTS = 240  # of a line, as it has few pixels
_DASHES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D")
_NAME_LENGTH = 24  # characters
_LOG_FROM = 50  # answers in a bin, from which the axis is logarithmic so that small bins stay visible


@dataclass(frozen=True)
class Line:
    """A named line.

    Attributes:
        name: in the legend.
        x, y: (points,).
        low, high: (points,), the bounds of a band around it; None: no band.
        grey: for a baseline.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    grey: bool = False


@dataclass(frozen=True)
class Point:
    """A named point with an interval in y, nan if unknown; grey for a baseline."""

    name: str
    x: float
    y: float
    low: float
    high: float
    grey: bool = False


def reliability(edges: np.ndarray, stated: np.ndarray, true: np.ndarray, rows: np.ndarray, *, name: str) -> str:
    """Draw a reliability diagram, with the number of answers in each bin below it."""
    with themed():
        figure, (above, below) = axes(rows=(3, 1))
        filled = rows > 0
        above.plot([0, 1], [0, 1], color=MUTED.stand_in, linestyle="--", linewidth=1.2)
        above.vlines(stated[filled], stated[filled], true[filled], color=ORANGE.stand_in, linewidth=2)
        above.plot(stated[filled], true[filled], color=BLUE.stand_in, marker="o")
        above.set(ylim=(-0.02, 1.02), xlim=(0, 1), ylabel="came true")
        below.bar(edges[:-1], rows, np.diff(edges), align="edge", color=BLUE.stand_in, linewidth=0.7)
        below.set(xlabel="stated probability", ylabel="answers")
        if rows.max() > _LOG_FROM:
            below.set(yscale="log", ylim=(0.8, None))
            _plain_ticks(below.yaxis)
        below.grid(visible=False, axis="x")
        return svg_of(figure, name=name, label="Stated probability against the share that came true")


def lines(
    drawn: Sequence[Line], *, name: str, label: str, x: str, y: str, whole: bool = False, mark: float | None = None
) -> str:
    """Draw lines against each other.

    Args:
        drawn: the lines.
        name: of the figure.
        label: a description of the figure.
        x: label of the x axis.
        y: label of the y axis.
        whole: whether y is shown from 0 to 1.
        mark: an x to mark with a vertical line; None: none.
    """
    with themed():
        figure, (plot,) = axes()
        for place, line in enumerate(drawn):
            points = _thinned(line.x)
            plot.plot(line.x[points], line.y[points], _DASHES[place % 4], color=_colour(place), label=_short(line.name))
        if mark is not None:
            plot.axvline(mark, color=MUTED.stand_in, linestyle=":", linewidth=1.4)
        plot.set(xlabel=x, ylabel=y)
        plot.set_ylim(*((0, 1.02) if whole else (0, None)))
        _legend(plot, len(drawn))
        return svg_of(figure, name=name, label=label)


def group_scores(groups: Sequence[str], scores: Sequence[tuple[str, np.ndarray]], *, name: str, score: str) -> str:
    """Draw each predictor's score on each group, with intervals, one group per line.

    Args:
        groups: their names.
        scores: for each predictor its name and (groups, 3) values, lower and upper bounds.
        name: of the figure.
        score: what is measured.
    """
    with themed():
        figure, (plot,) = axes(height=78 + 40 * len(groups))
        for place, (who, values) in enumerate(scores):
            at = np.arange(len(groups)) + 0.3 * (place - (len(scores) - 1) / 2)
            plot.errorbar(
                values[:, 0],
                at,
                xerr=_margins(values),
                fmt=_MARKERS[place % 4],
                color=_colour(place),
                label=_short(who),
            )
        plot.set_yticks(np.arange(len(groups)), [_short(each) for each in groups])
        plot.set_ylim(len(groups) - 0.4, -0.6)
        plot.set_xlabel(score)
        plot.locator_params(axis="x", nbins=5)
        plot.grid(visible=False, axis="y")
        plot.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        return svg_of(figure, name=name, label=f"{score} by group")


def training(steps: np.ndarray, losses: np.ndarray, measured: Line | None, *, name: str) -> str:
    """Draw the loss of every step with its running mean over 5 % of them, and the validation score below, if any."""
    with themed():
        figure, plots = axes(rows=(1, 1) if measured else (1,))
        window = max(1, len(losses) // 20)
        smooth = np.convolve(losses, np.full(window, 1 / window), mode="valid")
        points, smooth_points = _thinned(steps), _thinned(smooth)
        plots[0].plot(steps[points], losses[points], color=LINE.stand_in, linewidth=1)
        plots[0].plot(steps[window - 1 :][smooth_points], smooth[smooth_points], color=BLUE.stand_in)
        plots[0].set_ylabel("training loss")
        plots[0].set_ylim(0, None)
        if measured:
            plots[1].plot(measured.x, measured.y, color=ORANGE.stand_in, marker="o")
            plots[1].set_ylabel(_short(measured.name))
        plots[-1].set_xlabel("step")
        return svg_of(figure, name=name, label=f"Training loss{' and validation score' if measured else ''} by step")


def agreement(true: np.ndarray, predicted: np.ndarray, *, name: str) -> str:
    """Draw predicted numbers against true ones, with the line of equality."""
    with themed():
        figure, (plot,) = axes(height=340)
        ends = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
        plot.plot(true, predicted, "o", color=BLUE.stand_in, alpha=0.45, markersize=4, markeredgewidth=0)
        plot.plot(ends, ends, color=INK.stand_in, linestyle="--", linewidth=1.2)
        plot.set(xlabel="true", ylabel="predicted")
        return svg_of(figure, name=name, label="Predicted numbers against true ones")


def histogram(values: np.ndarray, *, name: str, label: str, x: str) -> str:
    """Draw a histogram with a line at zero."""
    with themed():
        figure, (plot,) = axes()
        plot.hist(values, bins=min(40, max(5, int(np.sqrt(len(values))))), color=BLUE.stand_in, linewidth=0.7)
        plot.axvline(0, color=INK.stand_in, linestyle="--", linewidth=1.2)
        plot.set(xlabel=x, ylabel="rows")
        plot.grid(visible=False, axis="x")
        return svg_of(figure, name=name, label=label)


def learning_curves(candidates: Sequence[Line], *, name: str, score: str) -> str:
    """Draw each candidate's score against the number of labelled rows, on a logarithmic axis.

    Args:
        candidates: for each its mean over repetitions, with the band between `low` and `high`.
        name: of the figure.
        score: what is measured.
    """
    with themed():
        figure, (plot,) = axes()
        for place, line in enumerate(candidates):
            style = _style(place, grey=line.grey)
            if line.low is not None and line.high is not None:
                plot.fill_between(line.x, line.low, line.high, color=style["color"], alpha=0.18, linewidth=0)
            dashes = _DASHES[(place + place // 4) % 4]  # a repeated colour gets other dashes
            plot.plot(line.x, line.y, label=_short(line.name), linestyle=dashes, **style)
        ticks = np.unique(np.concatenate([line.x for line in candidates]))
        plot.set(xscale="log", xlabel="labelled rows", ylabel=score)
        plot.set_xticks(ticks, [f"{rows:,.0f}" for rows in ticks])
        plot.set_xticks([], minor=True)
        _legend(plot, len(candidates))
        return svg_of(figure, name=name, label=f"{score} by the number of labelled rows")


def cost_against_score(candidates: Sequence[Point], *, name: str, score: str) -> str:
    """Draw each candidate's score against its seconds, on a logarithmic axis, with the markers of `learning_curves`."""
    with themed():
        figure, (plot,) = axes()
        for place, point in enumerate(candidates):
            margins = _margins(np.array([[point.y, point.low, point.high]]))
            style = _style(place, grey=point.grey)
            plot.errorbar([point.x], [point.y], yerr=margins, linestyle="", label=_short(point.name), **style)
        plot.set(xscale="log", xlabel="seconds", ylabel=score)
        plot.margins(x=0.25, y=0.12)
        _plain_ticks(plot.xaxis)
        _legend(plot, len(candidates))
        return svg_of(figure, name=name, label=f"{score} against seconds")


def _plain_ticks(axis: Axis) -> None:
    """Write out the numbers of a logarithmic axis, since powers would need mathematical fonts."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(base=10, subs=(1.0,), numticks=5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def _style(place: int, *, grey: bool) -> dict[str, Any]:
    return {"color": MUTED.stand_in if grey else _colour(place), "marker": _MARKERS[(place + place // 4) % 4]}


def _colour(place: int) -> str:
    return SERIES[place % len(SERIES)].stand_in


def _short(words: str) -> str:
    line = shortened(" ".join(words.split()), _NAME_LENGTH)
    return f"\u200b{line}" if line.startswith("_") else line  # matplotlib leaves such names out of the legend


def _thinned(points: np.ndarray) -> np.ndarray:
    """Return the indices of at most as many points as a line needs, including both ends."""
    return np.unique(np.linspace(0, len(points) - 1, min(len(points), _MOST_POINTS)).round().astype(np.int64))


def _margins(values: np.ndarray) -> np.ndarray:
    """Return (2, rows): the distances of the lower and upper bounds from the value; 0 if unknown."""
    return np.nan_to_num(np.stack([values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]])).clip(min=0)


def _legend(plot: Axes, count: int) -> None:
    """Add a legend for several lines above the plot, where it cannot cover any."""
    if count > 1:
        position: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 2}
        plot.legend(**position, handlelength=1.8, columnspacing=1.2, facecolor=PAPER.stand_in)
