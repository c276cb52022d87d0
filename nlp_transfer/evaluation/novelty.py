"""What a model keeps to tell how unlike all it knows a text is, but for the tensors of its score."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nlp_transfer.evaluation.kept import KeptScores
from nlp_transfer.evaluation.unknown import DETECTORS, OF_LOGITS


@dataclass(frozen=True)
class Novelty:
    """How unlike what a model knows a text may be.

    Attributes:
        score: a name in `unknown.DETECTORS`.
        kept: that score of the validation rows.
        rehearsed: the mean AUROC of every score where classes were hidden, by which this one was chosen; empty where
            there were too few classes.
        sha256: of the file with what the score needs beside the model; None where it needs none.
    """

    score: str
    kept: KeptScores
    rehearsed: dict[str, float]
    sha256: str | None = None

    @property
    def reads_features(self) -> bool:
        """Whether the score needs more than the logits."""
        return self.score not in OF_LOGITS

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self) | {"kept": self.kept.to_json()}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Novelty:
        """Return what `to_json` wrote.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: for anything that it does not write.
        """
        score, rehearsed, sha256 = plain["score"], plain["rehearsed"], plain["sha256"]
        if score not in DETECTORS or isinstance(sha256, str) == (score in OF_LOGITS):
            raise ValueError("no score of the unknown")
        if not all(name in DETECTORS and isinstance(value, float) for name, value in rehearsed.items()):
            raise ValueError("no figures of a rehearsal")
        return cls(score, KeptScores.from_json(plain["kept"]), dict(rehearsed), sha256)
