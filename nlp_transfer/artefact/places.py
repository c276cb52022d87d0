"""Where the parts of a run lie, seen from a folder that somebody named; opens none of them."""

from __future__ import annotations

from pathlib import Path

from nlp_transfer.encoder.source import RECORD

PAGES = ("report.html", "report.md")  # about figures, in the folder of a run, a comparison or a sweep
FIGURES = "export.json"  # what was compared when an export was written; no other folder of ours holds it


def model_folder(folder: Path) -> Path:
    """Return the ``model/`` folder of a run folder; any other folder is returned as it is."""
    return folder / "model" if (folder / "model" / RECORD).is_file() else folder


def run_of(folder: Path) -> Path | None:
    """Return the folder of the run that a folder is, or whose ``model/`` it is; None for a model alone."""
    inside = folder if folder.name == "model" else folder.resolve()
    if inside.name == "model" and (inside.parent / "config.yaml").is_file():
        return inside.parent
    return folder if (folder / "config.yaml").is_file() else None
