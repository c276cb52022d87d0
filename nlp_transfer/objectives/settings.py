"""The knobs of every objective term, without torch: what the configuration is checked against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nlp_transfer.errors import UserError, one_of


@dataclass(frozen=True, kw_only=True)
class ClassifySettings:
    """The supervised loss of the task; which one follows from the problem type."""

    weight: float = 1.0
    label_smoothing: float = 0.0
    ordinal_sharpness: float = 2.0

    compares = False
    reads_unlabelled = False

    def check(self) -> None:
        """Refuse values outside their range.

        Raises:
            UserError: naming the key, its value and what it may be.
        """
        _check_weight("classify", self.weight)
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"objective.classify.label_smoothing={self.label_smoothing} must lie in [0, 1)")
        if not self.ordinal_sharpness > 0:
            raise UserError(f"objective.classify.ordinal_sharpness={self.ordinal_sharpness} must be positive")


@dataclass(frozen=True, kw_only=True)
class ContrastSettings:
    """Texts of one label nearer to each other than to those of others."""

    weight: float = 1.0
    kind: str = "pairs"
    temperature: float = 0.1

    compares = True
    reads_unlabelled = False

    def check(self) -> None:
        """Refuse values outside their range.

        Raises:
            UserError: naming the key, its value and what it may be.
        """
        one_of(self.kind, ("pairs", "supcon"), "objective.contrast.kind")
        _check_weight("contrast", self.weight)
        if not self.temperature > 0:
            raise UserError(f"objective.contrast.temperature={self.temperature} must be positive")


@dataclass(frozen=True, kw_only=True)
class DistillSettings:
    """Answers like those of a teacher."""

    weight: float = 1.0
    teacher: str | None = None
    temperature: float = 2.0

    compares = False
    reads_unlabelled = True

    def check(self) -> None:
        """Refuse values outside their range, and none where there must be one.

        Raises:
            UserError: naming the key, its value and what it may be.
        """
        if self.teacher is None:
            raise UserError("objective.distill.teacher must name the folder of a run or of its model")
        _check_weight("distill", self.weight)
        if not self.temperature > 0:
            raise UserError(f"objective.distill.temperature={self.temperature} must be positive")


# One row a term: its name in the configuration and what it may be given. `objective.py` has the modules. A term
# `compares` where the loss of an example hangs on the others of its pass, and `reads_unlabelled` what has no label.
TERM_SETTINGS: dict[str, type] = {
    "classify": ClassifySettings,
    "contrast": ContrastSettings,
    "distill": DistillSettings,
}


def _check_weight(term: str, weight: float) -> None:
    if not weight >= 0:
        raise UserError(f"objective.{term}.weight={weight} must be at least 0")


def compares(objective: Mapping[str, Any]) -> bool:
    """Return whether the loss of an example hangs on the others of its pass."""
    return any(term.compares and term.weight for term in objective.values())


def reads_unlabelled(objective: Mapping[str, Any]) -> bool:
    """Return whether texts without labels teach anything."""
    return any(term.reads_unlabelled and term.weight for term in objective.values())
