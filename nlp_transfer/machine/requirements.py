"""Optional libraries: which extra of this package installs each, and a check that they are there."""

from __future__ import annotations

import importlib.util

from nlp_transfer.errors import UserError

_EXPORT, _SWEEP = '"nlp-transfer[export]"', '"nlp-transfer[sweep]"'
# Library -> what pip installs.
_PACKAGES = {
    "onnx": _EXPORT,
    "onnxscript": _EXPORT,
    "onnxruntime": _EXPORT,
    "openvino": '"nlp-transfer[openvino]"',
    "optuna": _SWEEP,
    "submitit": _SWEEP,
    "ray": "ray",  # too large for the extra
}


def require_installed(*libraries: str) -> None:
    """Require that libraries are installed.

    Raises:
        UserError: naming the missing ones and the command that installs them.
    """
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{', '.join(missing)} is not installed: pip install {_PACKAGES[missing[-1]]}")
