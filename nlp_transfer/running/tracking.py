"""Experiment trackers of accelerate, beside the metrics.jsonl that is always written."""

from __future__ import annotations

import atexit
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from nlp_transfer.composing.plain import dotted
from nlp_transfer.config import to_plain
from nlp_transfer.errors import UserError, one_of
from nlp_transfer.evaluation.report import Report
from nlp_transfer.settings import Settings


def check(names: Sequence[str]) -> None:
    """Refuse trackers that are unknown or not installed; accelerate would silently skip the latter.

    Raises:
        UserError: naming the tracker.
    """
    if not names:
        return
    from accelerate.tracking import get_available_trackers
    from accelerate.utils import LoggerType

    known = [kind for kind in LoggerType.list() if kind != "all"]
    available = {str(getattr(kind, "value", kind)) for kind in get_available_trackers()}
    for name in names:
        one_of(name, known, "tracking.trackers")
        if name not in available:
            raise UserError(f"tracking.trackers: {name} is not installed; `pip install {name.replace('_', '-')}`")


def start(accelerator: Accelerator, settings: Settings, folder: Path) -> None:
    """Start the trackers of the run in `folder`, which exists.

    Raises:
        UserError: for a tracker that cannot be started.
    """
    if not settings.tracking.trackers:
        return
    # Nothing leaves the machine unless the user says so; MLflow sends telemetry by default.
    mode = os.environ.get("WANDB_MODE", "offline")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    init_kwargs = {
        "wandb": {"name": folder.name, "dir": str(folder), "mode": mode},
        "mlflow": {"run_name": folder.name},
        "trackio": {"name": folder.name},
    }
    try:
        with redirect_stdout(sys.stderr):  # standard output is for the result
            accelerator.init_trackers(settings.tracking.project, config=_values(settings), init_kwargs=init_kwargs)
    except Exception as error:  # each service has errors of its own
        raise UserError(f"tracking.trackers={list(settings.tracking.trackers)} cannot be started: {error}") from error
    finally:
        # Some trackers print when the interpreter exits; the handler registered last runs first.
        atexit.register(setattr, sys, "stdout", sys.stderr)


def log(accelerator: Accelerator, kind: str, values: Mapping[str, float], step: int) -> None:
    """Log values under ``kind/name``."""
    accelerator.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)


def finish(accelerator: Accelerator, report: Report, step: int) -> None:
    """Log the metrics of the model and the baselines, and close the trackers."""
    for row in report.rows:
        kind = report.split if row.name == "model" else f"{report.split} {row.name}"
        log(accelerator, kind, {name: interval.value for name, interval in row.intervals.items()}, step)
    close(accelerator)


def close(accelerator: Accelerator) -> None:
    """Close the trackers."""
    if not accelerator.trackers:
        return
    with redirect_stdout(sys.stderr):
        for tracker in accelerator.trackers:
            tracker.finish()


def _values(settings: Settings) -> dict[str, Any]:
    """Return the settings as dotted keys with values that every tracker accepts."""
    plain = (int, float, str, bool)
    flat = dotted(to_plain(settings))
    return {key: value if isinstance(value, plain) else json.dumps(value) for key, value in flat.items()}
