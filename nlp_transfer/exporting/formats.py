"""The export formats, with their files and libraries; this module imports no torch."""

from __future__ import annotations

from typing import NamedTuple

from nlp_transfer.artefact.places import ONNX, OPENVINO, STATIC
from nlp_transfer.errors import at_least, one_of
from nlp_transfer.verb_settings import ExportSettings


class Format(NamedTuple):
    """The file that is loaded, and the libraries needed for the export and the comparison."""

    file: str
    libraries: tuple[str, ...]


FORMATS = {
    "onnx": Format(ONNX, ("onnx", "onnxscript", "onnxruntime")),
    "onnx_int8": Format(ONNX, ("onnx", "onnxscript", "onnxruntime")),
    "openvino": Format(OPENVINO, ("onnx", "onnxscript", "openvino")),
    "static": Format(STATIC, ()),
}


def check_export(settings: ExportSettings) -> None:
    """Check the values of the `export` group, before a model is loaded.

    Raises:
        UserError: naming the key, its value and the allowed values.
    """
    one_of(settings.format, FORMATS, "export.format")
    at_least(settings, "export.", 1, "rows", "threads")
