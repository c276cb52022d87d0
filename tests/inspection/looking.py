"""Checking a corpus in tests, and its findings."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from nlp_transfer.inspection.examine import Examination, examine
from nlp_transfer.inspection.show import render
from nlp_transfer.terminal.console import Screen
from tests.composed import settings_of
from tests.inspection.defects import Splits

QUIET = Screen(quiet=True)


def examined(splits: Splits, **values) -> Examination:
    settings = settings_of({"data": "object", "check.encoder": False} | values)
    return examine(settings, QUIET, data=splits)


def kinds(found: Examination) -> set[str]:
    return {each.kind for each in found.findings}


def custom(encoder: Path) -> dict[str, object]:
    return {"check.encoder": True, "encoder": "custom", "encoder.name": str(encoder), "training.precision": "fp32"}


def terminal_output(found: Examination) -> str:
    """The output of a terminal."""
    with (console := Console(width=200)).capture() as captured:
        render(found, console)
    return captured.get()
