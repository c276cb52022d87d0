"""A confusion matrix as hand-written SVG, which stays crisp and small with hundreds of labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from markupsafe import escape

from nlp_transfer.wording import shortened

NUMBERED = 20  # labels up to which every cell shows its number
_LEVELS = 12  # of opacity
_DARK = 0.45  # share from which a cell is so dark that its number is light
_NAME_LENGTH = 26  # characters
_LARGE, _SMALL = 40, 14  # pixels of a cell


def confusion_matrix(counts: np.ndarray, names: Sequence[str], *, label: str) -> str:
    """Draw a confusion matrix; the darker a cell, the larger its share of the true label.

    The diagonal, where predictions are right, has its own colour.

    Args:
        counts: (labels, labels): rows are true labels, columns predicted ones.
        names: of the labels, in that order.
        label: a description for screen readers.
    """
    numbered = len(names) <= NUMBERED
    cell, size = (_LARGE, 12) if numbered else (_SMALL, 10)
    short = [shortened(" ".join(name.split()), _NAME_LENGTH) for name in names]
    margin = min(190, 24 + int(max(map(len, short), default=0) * size * 0.62))
    side, top = cell * len(names), margin + 22
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1e-12)
    shares = counts / totals
    parts = [*_grid(len(names), cell, margin, top), *_cells(shares, cell, margin, top)]
    if numbered:
        parts += _numbers(counts, shares, cell, margin, top)
    for place, name in enumerate(short):
        middle = place * cell + cell / 2 + size * 0.35
        parts.append(f'<text x="{margin - 6}" y="{top + middle:g}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<text transform="translate({margin + middle:g} {top - 6}) rotate(-90)">{escape(name)}</text>')
    axis = 'class="axis"'
    parts.append(f'<text {axis} x="{margin}" y="12">given →</text>')
    parts.append(f'<text {axis} x="{margin - 6}" y="{top - 6}" text-anchor="end">true ↓</text>')
    width, height = margin + side + 8, top + side + 8
    return (
        f'<svg class="drawn matrix" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-size="{size}" role="img" aria-label="{escape(label)}">\n' + "\n".join(parts) + "\n</svg>"
    )


def _grid(labels: int, cell: int, left: int, top: int) -> list[str]:
    side = cell * labels
    steps = range(0, side + 1, cell)
    lines = "".join(f"M{left} {top + at}h{side}M{left + at} {top}v{side}" for at in steps)
    return [f'<path class="grid" d="{lines}"/>']


def _cells(shares: np.ndarray, cell: int, left: int, top: int) -> list[str]:
    """Return one path for all cells of the same colour and opacity."""
    paths: defaultdict[tuple[bool, int], list[str]] = defaultdict(list)
    for line, column in np.argwhere(shares > 0):
        level = max(1, int(np.ceil(np.sqrt(shares[line, column]) * _LEVELS)))  # the root makes small shares visible
        square = f"M{left + column * cell} {top + line * cell}h{cell}v{cell}h-{cell}z"
        paths[bool(line == column), level].append(square)
    return [
        f'<path class="{"right" if right else "wrong"}" fill-opacity="{level / _LEVELS:.2f}" d="{"".join(squares)}"/>'
        for (right, level), squares in sorted(paths.items())
    ]


def _numbers(counts: np.ndarray, shares: np.ndarray, cell: int, left: int, top: int) -> list[str]:
    whole = bool((counts == counts.round()).all())
    parts = []
    for line, column in np.argwhere(counts > 0):
        x, y = left + column * cell + cell / 2, top + line * cell + cell / 2 + 4
        light = ' class="on"' if shares[line, column] > _DARK else ""
        count = _count(counts[line, column], whole)
        parts.append(f'<text x="{x:g}" y="{y:g}" text-anchor="middle"{light}>{count}</text>')
    return parts


def _count(value: float, whole: bool) -> str:
    if not whole:
        return f"{value:.1f}" if value < 999.5 else f"{value / 1000:.1f}k"
    return f"{value:.0f}" if value < 99999.5 else f"{value / 1000:.0f}k"
