"""A model's record of its novelty detector, without the detector's tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nlp_transfer.evaluation.calibration_scores import CalibrationScores
from nlp_transfer.evaluation.unknown import DETECTORS, OF_LOGITS


@dataclass(frozen=True)
class Novelty:
    """The novelty detector of a model.

    Attributes:
        score: its name in `unknown.DETECTORS`.
        kept: its scores of the validation rows.
        rehearsed: the mean AUROC of every detector on hidden classes, by which this one was chosen; empty if there were
            too few classes.
        sha256: of the file with the detector's tensors; None if it has none.
    """

    score: str
    kept: CalibrationScores
    rehearsed: dict[str, float]
    sha256: str | None = None

    @property
    def reads_features(self) -> bool:
        """Whether the detector needs features beside the logits."""
        return self.score not in OF_LOGITS

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self) | {"kept": self.kept.to_json()}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Novelty:
        """Read what `to_json` returned.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: for anything else.
        """
        score, rehearsed, sha256 = plain["score"], plain["rehearsed"], plain["sha256"]
        if score not in DETECTORS or isinstance(sha256, str) == (score in OF_LOGITS):
            raise ValueError("no score of the unknown")
        if not all(name in DETECTORS and isinstance(value, float) for name, value in rehearsed.items()):
            raise ValueError("no figures of a rehearsal")
        return cls(score, CalibrationScores.from_json(plain["kept"]), dict(rehearsed), sha256)
