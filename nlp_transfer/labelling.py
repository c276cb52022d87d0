"""From logits to what a person asked for: labels and probabilities, the same whatever computed the logits."""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.decisions import abstains, decide, probabilities, settled

if TYPE_CHECKING:
    from nlp_transfer.data.task import Task
    from nlp_transfer.record import Record
    from nlp_transfer.settings import DecisionSettings


@dataclass(frozen=True)
class Prediction:
    """One text's answer.

    Attributes:
        label: the label's name; a list of names for multi-label; a number for regression.
        probabilities: by label name; empty for regression.
        abstains: whether the highest probability is too low for the model's rule; the label is its best guess then.
    """

    label: str | list[str] | float
    probabilities: dict[str, float]
    abstains: bool = False


class Labeller(ABC):
    """What answers texts with logits, and so with labels.

    Attributes:
        record: of the saved model.
    """

    record: Record

    def deciding_by(self, settings: DecisionSettings) -> Self:
        """Return the same model, following the rules that are set instead of its own; what computes is shared.

        Raises:
            UserError: for a rule that the model's task has no use for.
        """
        other = copy.copy(self)
        other.record = dataclasses.replace(self.record, task=settled(self.record.task, settings))
        return other

    @abstractmethod
    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray:
        """Return the raw outputs, float32 (texts, outputs)."""

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Prediction]:
        """Return the label and the probabilities of every text, in order.

        Args:
            texts: the texts.
            pairs: the second texts, where the model was trained on pairs; as many.

        Raises:
            UserError: for one text instead of a list, or pairs where the model takes none, or none where it does.
        """
        if isinstance(texts, str) or isinstance(pairs, str):
            raise UserError("predict takes a list of texts; put the one text into a list")
        if not texts:
            return []
        return _predictions(self.record.task, self.logits(texts, pairs))

    def check_pairs(self, pairs: Sequence[str] | None) -> None:
        """Refuse pairs where the model was trained on single texts, and single texts where it was trained on pairs."""
        if (pairs is not None) != self.record.task.pair:
            raise UserError(f"the model was trained on {'pairs of texts' if self.record.task.pair else 'single texts'}")


def _predictions(task: Task, logits: np.ndarray) -> list[Prediction]:
    decisions, likely, unsure = decide(task, logits), probabilities(task, logits), abstains(task, logits)
    if task.problem == "regression":
        return [Prediction(float(value), {}) for value in decisions]
    answers: list[Prediction] = []
    for decision, row, abstaining in zip(decisions, likely, unsure, strict=True):
        chosen = (
            [name for name, yes in zip(task.labels, decision, strict=True) if yes]
            if task.problem == "multi_label"
            else task.labels[int(decision)]
        )
        answers.append(Prediction(chosen, dict(zip(task.labels, map(float, row), strict=True)), bool(abstaining)))
    return answers
