"""Figures as markup: the colours of a page, names of their own, whatever is configured and whatever they are called."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from nlp_transfer.reporting import figures
from nlp_transfer.reporting.figures import Line, Point
from nlp_transfer.reporting.matrix import confusion_matrix
from tests.reporting.tasks import HOSTILE

ROWS = np.array([10.0, 100.0, 1000.0])
LINES = [Line(name, ROWS, ROWS / 2000 + at / 10, ROWS / 3000, ROWS / 1500 + at / 10) for at, name in enumerate(HOSTILE)]
POINTS = [Point(name, 10.0**at, 0.5 + at / 10, 0.4, np.nan if at else 0.9) for at, name in enumerate(HOSTILE)]


def tags_of(svg: str) -> str:
    return "".join(re.findall(r"<[^>]*>", svg))


@pytest.mark.parametrize(
    "draw",
    [
        lambda name: figures.learning_curves(LINES, name=name, score="accuracy"),
        lambda name: figures.cost_against_score(POINTS, name=name, score="accuracy"),
        lambda name: figures.training(ROWS, ROWS, None, name=name),
        lambda name: confusion_matrix(np.diag([3.0, 2.5, 0, 1]), HOSTILE, label=HOSTILE[0]),
    ],
    ids=["learning curves", "cost", "training", "matrix"],
)
def test_a_figure_is_valid_page_markup(draw):
    svg = draw("one")
    ElementTree.fromstring(svg)
    assert 'role="img"' in svg
    assert "<script" not in svg
    assert "var(--" in svg or 'class="right"' in svg
    assert not re.search(r"#01010[1-8]", tags_of(svg))
    assert all(name.startswith("one-") for name in re.findall(r'\bid="([^"]*)"', svg))
    assert draw("one") == svg
    assert "one-" not in draw("two")


def test_candidates_are_named_in_the_drawing():
    for svg in (
        figures.learning_curves(LINES[:2], name="a", score="f1"),
        figures.cost_against_score(POINTS[:2], name="b", score="f1"),
    ):
        assert "&lt;script&gt;alert(1)&lt;/scrip…" in svg
        assert "שלום עולם" in svg
    assert ">1,000<" in figures.learning_curves(LINES[:2], name="a", score="f1")


def test_drawing_neither_changes_nor_uses_matplotlib_settings():
    usual = figures.histogram(ROWS, name="one", label="rows", x="rows")
    with matplotlib.rc_context({"font.size": 33.0, "svg.fonttype": "path", "axes.grid": False}):
        before = dict(matplotlib.rcParams)
        assert figures.histogram(ROWS, name="one", label="rows", x="rows") == usual
        assert dict(matplotlib.rcParams) == before


def test_a_matrix_has_numbers_up_to_twenty_labels_and_stays_small_beyond():
    few = confusion_matrix(np.diag(np.full(20, 7.0)), [f"label {at}" for at in range(20)], label="few")
    assert few.count(">7</text>") == 20
    rng = np.random.default_rng(0)
    many = confusion_matrix(
        rng.integers(0, 5, (150, 150)).astype(float), [f"label {at}" for at in range(150)], label=""
    )
    assert ">4</text>" not in many
    assert len(many) < 400_000
    assert confusion_matrix(np.zeros((2, 2)), ["a", "b"], label="none").count("<path") == 1  # the grid
