"""From logits to what a person asked for: labels and probabilities, the same whatever computed the logits."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from nlp_transfer.data.rows import text_fault
from nlp_transfer.decision.rules import Marks, marks, names_of, ruled
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.decisions import abstains, decide, probabilities

if TYPE_CHECKING:
    from nlp_transfer.artefact.record import Record
    from nlp_transfer.data.task import Task
    from nlp_transfer.evaluation.unknown import Detector
    from nlp_transfer.settings import DecisionSettings


@dataclass(frozen=True)
class Prediction:
    """One text's answer.

    Attributes:
        label: the label's name; a list of names for multi-label; a number for regression.
        probabilities: by label name; empty for regression.
        abstains: whether the highest probability is too low for the model's rule; the label is its best guess then.
        unknown: whether the text is unlike all the model knows; the label is its best guess then. None, as those below,
            for a model that has no such rule.
        set: the labels that hold the true one as often as `decision.coverage` says.
        low, high: of a number, the ends of the interval that holds the true one as often.
    """

    label: str | list[str] | float
    probabilities: dict[str, float]
    abstains: bool = False
    unknown: bool | None = None
    set: list[str] | None = None
    low: float | None = None
    high: float | None = None


class Labeller(ABC):
    """What answers texts with logits, and so with labels.

    Attributes:
        record: of the saved model.
        detector: its score of the unknown, if it has one.
    """

    record: Record
    detector: Detector | None = None

    def deciding_by(self, settings: DecisionSettings) -> Self:
        """Return the same model, following the rules that are set instead of its own; what computes is shared.

        Raises:
            UserError: for a rule that the model's task has no use for, or the model nothing to follow it by.
        """
        other = copy.copy(self)
        other.record = ruled(self.record, settings)
        return other

    def alone(self) -> Self:
        """Return the same model, which answers on this rank alone what it is asked there; else all ranks ask the same.

        What computes is shared.
        """
        return self

    @abstractmethod
    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray:
        """Return the raw outputs, float32 (texts, outputs)."""

    def answers(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the logits, and the features, (texts, width), where a rule asks for them (`rules.needs_features`)."""
        return self.logits(texts, pairs), None

    def predict(self, texts: Iterable[str], pairs: Iterable[str] | None = None) -> list[Prediction]:
        """Return the label and the probabilities of every text, in order.

        Args:
            texts: the texts: a list, a column of a DataFrame or Dataset, an array, whatever has an order.
            pairs: the second texts, where the model was trained on pairs; as many.

        Raises:
            UserError: for what is no row of texts, and pairs where the model takes none, or none where it does.
        """
        first, second = _listed(texts, "texts"), None if pairs is None else _listed(pairs, "pairs")
        if second is not None and len(second) != len(first):
            raise UserError(f"predict: {len(first):,} texts and {len(second):,} pairs; each text needs its second one")
        return self.decided(*self.answers(first, second)) if first else []

    def decided(self, logits: np.ndarray, features: np.ndarray | None) -> list[Prediction]:
        """Return what follows from `answers`."""
        return _predictions(self.record.task, logits, marks(self.record, self.detector, logits, features))

    def check_pairs(self, pairs: Sequence[str] | None) -> None:
        """Refuse pairs where the model was trained on single texts, and single texts where it was trained on pairs."""
        if (pairs is not None) != self.record.task.pair:
            raise UserError(f"the model was trained on {'pairs of texts' if self.record.task.pair else 'single texts'}")


def _listed(given: Any, name: str) -> list[str]:
    """Return texts as a list.

    Raises:
        UserError: for what has no order, or more than one column, and for an item that is no text.
    """
    if isinstance(given, str):
        raise UserError(f"predict takes a list of {name}; put the one text into a list")
    if (
        not isinstance(given, Iterable)
        or isinstance(given, Mapping | set | frozenset)
        or getattr(given, "ndim", 1) != 1
    ):
        raise UserError(f"predict takes a list of {name}, or one column of a table, not a {type(given).__name__}")
    texts = list(given)
    for number, text in enumerate(texts):
        if fault := text_fault(text):
            raise UserError(f"predict: {name}[{number}]: {fault}")
    return texts


def _predictions(task: Task, logits: np.ndarray, said: Marks) -> list[Prediction]:
    decisions, likely, unsure = decide(task, logits), probabilities(task, logits), abstains(task, logits)
    if task.problem == "regression":
        bounds = [(None, None)] * len(decisions) if said.bounds is None else said.bounds.tolist()
        return [
            Prediction(float(value), {}, low=low, high=high)
            for value, (low, high) in zip(decisions, bounds, strict=True)
        ]
    return [
        Prediction(
            names_of(task, decision) if task.problem == "multi_label" else task.labels[int(decision)],
            dict(zip(task.labels, map(float, likely[row]), strict=True)),
            bool(unsure[row]),
            None if said.unknown is None else bool(said.unknown[row]),
            None if said.sets is None else names_of(task, said.sets[row]),
        )
        for row, decision in enumerate(decisions)
    ]
