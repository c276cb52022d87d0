"""From a matplotlib figure to SVG that lives in a page: its colours, its font, names of its own. Knows no figure.

matplotlib is imported when something is drawn, and nothing of it is left changed.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from markupsafe import escape

from nlp_transfer.reporting.palette import COLOURS, INK, LINE, MUTED, PAPER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 400, 300  # pixels, at which text is as large as that of the page; a phone shows it at four fifths
_DOTS = 72  # an inch: one unit of matplotlib's SVG is a pixel then
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "nlp_transfer",
    "text.parse_math": False,  # a name with two dollar signs is a name
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": MUTED.stand_in,
    "axes.labelcolor": INK.stand_in,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINE.stand_in,
    "grid.linewidth": 0.7,
    "text.color": INK.stand_in,
    "xtick.color": MUTED.stand_in,
    "ytick.color": MUTED.stand_in,
    "xtick.labelcolor": INK.stand_in,
    "ytick.labelcolor": INK.stand_in,
    "font.size": 12.0,
    "axes.labelsize": 12.0,
    "xtick.labelsize": 11.5,
    "ytick.labelsize": 11.5,
    "legend.fontsize": 11.5,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 5.0,
    "patch.edgecolor": PAPER.stand_in,
    "hatch.color": PAPER.stand_in,
}
_COLOUR = re.compile("|".join(each.stand_in for each in COLOURS))
_VARIABLE = {each.stand_in: f"var(--{each.name})" for each in COLOURS}


@contextmanager
def themed() -> Iterator[None]:
    """Draw as a page does, whatever is configured on this machine; figures are made and rendered in the block."""
    import matplotlib

    usual: Any = {key: value for key, value in matplotlib.rcParamsDefault.items() if "backend" not in key}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a glyph its font lacks: the reader's browser has it, or another font
        with matplotlib.rc_context(usual | _STYLE):
            yield


def axes(*, height: int = HEIGHT, width: int = WIDTH, rows: tuple[int, ...] = (1,)) -> tuple[Figure, list[Axes]]:
    """Return an empty figure with axes below each other that share their x; for use within `themed`.

    Args:
        height: in pixels.
        width: in pixels.
        rows: how high the axes are, each in comparison with the others.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / _DOTS, height / _DOTS), dpi=_DOTS, layout="constrained")
    grid = figure.subplots(len(rows), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": rows})
    return figure, list(grid[:, 0])


def svg_of(figure: Figure, *, name: str, label: str) -> str:
    """Return a figure as SVG to stand in a page; for use within `themed`.

    Args:
        figure: that was drawn in stand-in colours.
        name: which no other figure of the page has: ids within it start with that.
        label: what is told of it to who cannot see it.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    out = io.StringIO()
    # What `savefig` calls in the end, after it has drawn everything once to see how large it is.
    FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawn = out.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    for left_out in (r"<!--.*?-->", r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<defs>\s*</defs>"):
        drawn = re.sub(left_out, "", drawn, flags=re.DOTALL)
    # In tags alone: what is written in the figure may look like anything.
    drawn = re.sub(r"<[^>]*>", lambda tag: _mended(tag[0], name), drawn)
    width, height = (round(side * _DOTS) for side in figure.get_size_inches())
    opened = (
        f'<svg class="drawn" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(label)}">'
    )
    return re.sub(r"^<svg[^>]*>", lambda _: opened, re.sub(r"\n\s*", "\n", drawn)).strip()


def _mended(tag: str, name: str) -> str:
    """Return a tag with names that are the figure's own, the page's colours and the page's font."""
    tag = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', tag)
    tag = re.sub(r'\bxlink:href="#([^"]*)"', rf'href="#{name}-\1"', tag)
    tag = re.sub(r"url\(#([^)]*)\)", rf"url(#{name}-\1)", tag)
    tag = re.sub(r"\bfont: ([\d.]+px)[^;\"]*", r"font-size: \1", tag)
    tag = re.sub(r"\bfont-family: [^;\"]*;? ?", "", tag)
    tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)  # a hundredth of a pixel is seen by nobody
    return _COLOUR.sub(lambda found: _VARIABLE[found[0]], tag)
