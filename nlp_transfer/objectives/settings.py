"""The knobs of every objective term, without torch: what the configuration is checked against."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ClassifySettings:
    """The supervised loss of the task; which one follows from the problem type."""

    weight: float = 1.0
    label_smoothing: float = 0.0
    ordinal_sharpness: float = 2.0


# One row a term: its name in the configuration and what it may be given. `objective.py` has the modules.
TERM_SETTINGS: dict[str, type] = {"classify": ClassifySettings}
