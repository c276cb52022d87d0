"""From logits to predictions for users, independent of the backend that computed the logits."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from nlp_transfer.data.rows import text_fault
from nlp_transfer.decision.rules import RuleResults, apply_rules, names_of, record_with_rules
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.decisions import abstains, decide, probabilities

if TYPE_CHECKING:
    from nlp_transfer.artefact.record import Record
    from nlp_transfer.data.task import Task
    from nlp_transfer.evaluation.unknown import Detector
    from nlp_transfer.settings import DecisionSettings


@dataclass(frozen=True)
class Prediction:
    """The prediction for one text.

    Attributes:
        label: the label's name; a list of names for multi-label; a number for regression. Also given as a best guess if
            the model abstains or calls the text unknown.
        probabilities: by label name; empty for regression.
        abstains: whether the highest probability is below `decision.abstain_below`.
        unknown: whether the text is unlike the training data (`decision.unknown`). None, as below, without such a rule.
        set: labels that contain the true one with the probability `decision.coverage`.
        low, high: for regression, the interval that contains the true number with that probability.
    """

    label: str | list[str] | float
    probabilities: dict[str, float]
    abstains: bool = False
    unknown: bool | None = None
    set: list[str] | None = None
    low: float | None = None
    high: float | None = None


class Labeller(ABC):
    """A model that predicts labels for texts; subclasses compute the logits.

    Attributes:
        record: of the saved model.
        detector: its novelty detector, if it has one.
    """

    record: Record
    detector: Detector | None = None

    def with_rules(self, settings: DecisionSettings) -> Self:
        """Return a copy that follows the decision rules in the settings; the underlying network is shared.

        Raises:
            UserError: for a rule that does not apply to the model's task, or that the model was not fitted for.
        """
        other = copy.copy(self)
        other.record = record_with_rules(self.record, settings)
        return other

    def alone(self) -> Self:
        """Return a copy that predicts on this rank independently of the others; the underlying network is shared.

        Without it, all ranks must ask for the same texts.
        """
        return self

    @abstractmethod
    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray:
        """Return the raw outputs, float32 (texts, outputs)."""

    def answers(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the logits, and the features, (texts, width), if a rule needs them (`rules.needs_features`)."""
        return self.logits(texts, pairs), None

    def predict(self, texts: Iterable[str], pairs: Iterable[str] | None = None) -> list[Prediction]:
        """Return the prediction for every text, in order.

        Args:
            texts: a list, a column of a DataFrame or Dataset, an array, or any other ordered iterable.
            pairs: the second texts, if the model was trained on pairs; as many as `texts`.

        Raises:
            UserError: for items that are not texts, and for pairs if the model takes single texts, or vice versa.
        """
        first, second = _listed(texts, "texts"), None if pairs is None else _listed(pairs, "pairs")
        if second is not None and len(second) != len(first):
            raise UserError(f"predict: {len(first):,} texts and {len(second):,} pairs; each text needs its second one")
        return self.to_predictions(*self.answers(first, second)) if first else []

    def to_predictions(self, logits: np.ndarray, features: np.ndarray | None) -> list[Prediction]:
        """Turn what `answers` returned into predictions."""
        return _predictions(self.record.task, logits, apply_rules(self.record, self.detector, logits, features))

    def check_pairs(self, pairs: Sequence[str] | None) -> None:
        """Raise UserError for pairs if the model was trained on single texts, or for single texts if on pairs."""
        if (pairs is not None) != self.record.task.pair:
            raise UserError(f"the model was trained on {'pairs of texts' if self.record.task.pair else 'single texts'}")


def _listed(given: Any, name: str) -> list[str]:
    """Return texts as a list.

    Raises:
        UserError: for anything without an order or with several columns, and for an item that is not a text.
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


def _predictions(task: Task, logits: np.ndarray, results: RuleResults) -> list[Prediction]:
    decisions, likely, unsure = decide(task, logits), probabilities(task, logits), abstains(task, logits)
    if task.problem == "regression":
        bounds = [(None, None)] * len(decisions) if results.bounds is None else results.bounds.tolist()
        return [
            Prediction(float(value), {}, low=low, high=high)
            for value, (low, high) in zip(decisions, bounds, strict=True)
        ]
    return [
        Prediction(
            names_of(task, decision) if task.problem == "multi_label" else task.labels[int(decision)],
            dict(zip(task.labels, map(float, likely[row]), strict=True)),
            bool(unsure[row]),
            None if results.unknown is None else bool(results.unknown[row]),
            None if results.sets is None else names_of(task, results.sets[row]),
        )
        for row, decision in enumerate(decisions)
    ]
