"""The colours of a page, light and dark. Figures are drawn in stand-in colours, which CSS variables replace."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Colour:
    """One colour.

    Attributes:
        name: of its CSS variable.
        stand_in: the unique colour that matplotlib draws it with.
        light, dark: its value on a light and on a dark page.
    """

    name: str
    stand_in: str
    light: str
    dark: str


PAPER = Colour("paper", "#010101", "#ffffff", "#15181c")
INK = Colour("ink", "#010102", "#1b1f24", "#e8eaed")
MUTED = Colour("muted", "#010103", "#57606a", "#a3abb5")
LINE = Colour("line", "#010104", "#d5dae0", "#3a424c")
# After Okabe and Ito (2008): distinguishable with every kind of colour vision, and in grey.
BLUE = Colour("blue", "#010105", "#0067a3", "#62b8ee")
ORANGE = Colour("orange", "#010106", "#bd5200", "#f0a03c")
GREEN = Colour("green", "#010107", "#00795a", "#3fcf9f")
PURPLE = Colour("purple", "#010108", "#a8497f", "#e49bc4")
SERIES = (BLUE, ORANGE, GREEN, PURPLE)
COLOURS = (PAPER, INK, MUTED, LINE, *SERIES)


def variables(*, dark: bool) -> str:
    """Return the CSS declarations of all colours."""
    return " ".join(f"--{each.name}: {each.dark if dark else each.light};" for each in COLOURS)
