"""How predictors and figures are written, on a terminal and in a model card alike."""

from __future__ import annotations

import math

from nlp_transfer.evaluation.intervals import Interval

MODEL = "model"
_TITLES = {MODEL: "adapted model", "majority": "majority", "tfidf": "TF-IDF + linear"}


def title_of(name: str) -> str:
    """Return what readers call a predictor."""
    return _TITLES.get(name, name)


def shown(figures: Interval, *, signed: bool = False, between: str = " ") -> str:
    """Write a figure with its interval, where it has one.

    Args:
        figures: the two.
        signed: whether all have a sign, as differences do.
        between: what stands between them.
    """
    value, low, high = (number(each, signed=signed) for each in (figures.value, figures.low, figures.high))
    return value if math.isnan(figures.low) else f"{value}{between}[{low}, {high}]"


def number(value: float, *, signed: bool = False) -> str:
    """Write a number in four characters where that is possible: .913, 1.23, 12.3, 123, 1.23e+04; – for nan."""
    if math.isnan(value):
        return "–"
    size = abs(value)
    if size < 0.9995:
        text = f"{size:.3f}"[1:]
    else:
        text = f"{size:.2f}" if size < 9.995 else f"{size:.1f}" if size < 99.95 else f"{size:.3g}"
    if text == ".000":
        return text
    return ("-" if value < 0 else "+" if signed else "") + text


def percentage(share: float) -> str:
    """Write a share that somebody has chosen as a percentage: 5%, 0.1%."""
    return f"{100 * share:.4g}%"


def probable(p: float) -> str:
    """Write a probability, the small ones by what they are less than."""
    return "< .001" if p < 0.001 else number(p)
