"""Conversion of matplotlib figures to SVG for a page, with the page's colours and font, and unique ids.

matplotlib is imported when something is drawn, and its configuration is left unchanged.
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

WIDTH, HEIGHT = 400, 300  # pixels; text then has the size of the page's, or four fifths of it on a phone
_DPI = 72  # so that one unit of matplotlib's SVG is a pixel
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "nlp_transfer",
    "text.parse_math": False,  # a label name may contain two dollar signs
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
    """Use the page's style, whatever the user's matplotlib configuration; figures must be made and rendered inside."""
    import matplotlib

    defaults: Any = {key: value for key, value in matplotlib.rcParamsDefault.items() if "backend" not in key}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about missing glyphs, which the browser will have
        with matplotlib.rc_context(defaults | _STYLE):
            yield


def axes(*, height: int = HEIGHT, width: int = WIDTH, rows: tuple[int, ...] = (1,)) -> tuple[Figure, list[Axes]]:
    """Return an empty figure with axes that are stacked vertically and share x; for use within `themed`.

    Args:
        height: in pixels.
        width: in pixels.
        rows: the relative heights of the axes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, layout="constrained")
    grid = figure.subplots(len(rows), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": rows})
    return figure, list(grid[:, 0])


def svg_of(figure: Figure, *, name: str, label: str) -> str:
    """Return a figure as SVG to embed in a page; for use within `themed`.

    Args:
        figure: drawn in stand-in colours.
        name: unique on the page; ids within the figure start with it.
        label: a description for screen readers.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    out = io.StringIO()
    # Called directly, since `savefig` would draw everything twice.
    FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    for unneeded in (r"<!--.*?-->", r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<defs>\s*</defs>"):
        svg = re.sub(unneeded, "", svg, flags=re.DOTALL)
    # Only inside tags: text in the figure may look like anything.
    svg = re.sub(r"<[^>]*>", lambda tag: _adapt_tag(tag[0], name), svg)
    width, height = (round(side * _DPI) for side in figure.get_size_inches())
    root = (
        f'<svg class="drawn" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(label)}">'
    )
    return re.sub(r"^<svg[^>]*>", lambda _: root, re.sub(r"\n\s*", "\n", svg)).strip()


def _adapt_tag(tag: str, name: str) -> str:
    """Return a tag with the figure's name in its ids, and the page's colours and font."""
    tag = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', tag)
    tag = re.sub(r'\bxlink:href="#([^"]*)"', rf'href="#{name}-\1"', tag)
    tag = re.sub(r"url\(#([^)]*)\)", rf"url(#{name}-\1)", tag)
    tag = re.sub(r"\bfont: ([\d.]+px)[^;\"]*", r"font-size: \1", tag)
    tag = re.sub(r"\bfont-family: [^;\"]*;? ?", "", tag)
    tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)  # less than a hundredth of a pixel is invisible
    return _COLOUR.sub(lambda match: _VARIABLE[match[0]], tag)
