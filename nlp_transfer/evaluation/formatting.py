"""Formatting of figures and of predictors' names, for the terminal, reports and model cards."""

from __future__ import annotations

import math

from nlp_transfer.evaluation.intervals import Interval

MODEL = "model"
_TITLES = {MODEL: "adapted model", "majority": "majority", "tfidf": "TF-IDF + linear"}


def title_of(name: str) -> str:
    """Return the display name of a predictor."""
    return _TITLES.get(name, name)


def format_interval(interval: Interval, *, signed: bool = False, between: str = " ") -> str:
    """Write a figure with its interval, or alone if it has none.

    Args:
        interval: the figure and its bounds.
        signed: whether positive numbers get a plus sign, as in differences.
        between: the separator between figure and bounds.
    """
    value, low, high = (number(each, signed=signed) for each in (interval.value, interval.low, interval.high))
    return value if math.isnan(interval.low) else f"{value}{between}[{low}, {high}]"


def number(value: float, *, signed: bool = False) -> str:
    """Write a number in four characters where possible: .913, 1.23, 12.3, 123, 1.23e+04; – for nan."""
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
    """Write a share from the settings as a percentage: 5%, 0.1%."""
    return f"{100 * share:.4g}%"


def format_p(p: float) -> str:
    """Write a p-value; below .001 as "< .001"."""
    return "< .001" if p < 0.001 else number(p)
