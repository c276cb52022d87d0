"""Names of the files that are saved beside a model, and its place within a folder that the user has named."""

from __future__ import annotations

from pathlib import Path

from nlp_transfer.encoder.source import RECORD

PAGES = ("report.html", "report.md")  # the reports in the folder of a run, a comparison or a sweep
FIGURES = "export.json"  # the comparison of an export with its model; it identifies the folder of an export
ONNX, OPENVINO, STATIC = "model.onnx", "model.xml", "static.safetensors"  # the file of an export that is loaded


def model_folder(folder: Path) -> Path:
    """Return the ``model/`` folder of a run folder; any other folder is returned unchanged."""
    return folder / "model" if (folder / "model" / RECORD).is_file() else folder


def run_of(folder: Path) -> Path | None:
    """Return the run folder, given that folder or its ``model/`` folder; None for a model alone."""
    resolved = folder if folder.name == "model" else folder.resolve()
    if resolved.name == "model" and (resolved.parent / "config.yaml").is_file():
        return resolved.parent
    return folder if (folder / "config.yaml").is_file() else None
