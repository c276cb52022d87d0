"""Figures in words."""

from __future__ import annotations

import math

import pytest

from nlp_transfer.evaluation.formatting import format_interval
from nlp_transfer.evaluation.intervals import Interval


@pytest.mark.parametrize(
    ("figures", "options", "words"),
    [
        ((0.8, 0.75, 0.85), {}, ".800 [.750, .850]"),
        ((0.05, -0.01, 0.11), {"signed": True}, "+.050 [-.010, +.110]"),
        ((0.05, -0.01, 0.11), {"signed": True, "between": "\n"}, "+.050\n[-.010, +.110]"),
        ((0.05, math.nan, math.nan), {"signed": True}, "+.050"),  # no resamples: there is no interval to tell
        ((math.nan, math.nan, math.nan), {}, "–"),
    ],
)
def test_a_figure_is_shown_with_the_interval_that_it_has(figures: tuple, options: dict, words: str):
    assert format_interval(Interval(*figures), **options) == words
