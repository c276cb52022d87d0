"""Selection of rows: the most confident mistakes, and rows that do not occur in the training split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.data.near import near_any
from nlp_transfer.data.rows import whole_texts
from nlp_transfer.data.task import likeliest
from nlp_transfer.evaluation.decisions import decide, probabilities

if TYPE_CHECKING:
    from nlp_transfer.data.corpus import Examples
    from nlp_transfer.data.task import Task

_MOST_CHARACTERS = 1_500_000  # for the search of near repeats: about two seconds


@dataclass(frozen=True)
class Mistake:
    """A wrongly predicted row.

    Attributes:
        row: its index.
        true, given: the true and the predicted label or number.
        sure: the probability of the prediction; multi_label: of the label that is most wrong; regression: the error.
        about: multi_label: the label that is most wrong.
    """

    row: int
    true: str
    given: str
    sure: float
    about: str = ""


def worst(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray, *, most: int) -> list[Mistake]:
    """Return the most confident mistakes; regression: the largest errors."""
    if task.problem == "regression":
        return _largest_errors(logits.reshape(-1), targets, weights, most)
    if task.problem == "multi_label":
        return _most_wrong_labels(task, logits, targets, weights, most)
    chosen = decide(task, logits)
    true = likeliest(targets)
    likely = probabilities(task, logits)[np.arange(len(chosen)), chosen]
    wrong = np.flatnonzero((true != chosen) & (weights > 0))
    order = wrong[np.argsort(-likely[wrong], kind="stable")][:most]
    return [Mistake(int(row), task.labels[true[row]], task.labels[chosen[row]], float(likely[row])) for row in order]


def _largest_errors(values: np.ndarray, targets: np.ndarray, weights: np.ndarray, most: int) -> list[Mistake]:
    errors = np.where(weights > 0, np.abs(values.astype(np.float64) - targets), 0)
    order = [row for row in np.argsort(-errors, kind="stable")[:most] if errors[row]]
    return [Mistake(int(row), f"{targets[row]:.4g}", f"{values[row]:.4g}", float(errors[row])) for row in order]


def _most_wrong_labels(
    task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray, most: int
) -> list[Mistake]:
    """Return the rows with a wrong label decision, ordered by how far its probability is from the truth."""
    likely, chosen, true = probabilities(task, logits), decide(task, logits), targets >= 0.5
    errors = np.where(chosen != true, np.abs(likely - true), 0) * (weights > 0)[:, None]
    label = errors.argmax(axis=1)
    largest = errors[np.arange(len(errors)), label]
    order = [row for row in np.argsort(-largest, kind="stable")[:most] if largest[row]]

    def names(is_given: np.ndarray) -> str:
        return ", ".join(task.labels[place] for place in np.flatnonzero(is_given)) or "none"

    return [
        Mistake(int(row), names(true[row]), names(chosen[row]), float(likely[row, label[row]]), task.labels[label[row]])
        for row in order
    ]


@dataclass(frozen=True)
class Unseen:
    """Measured rows whose text does not occur in the training split.

    Attributes:
        rows: int64 (rows,): their indices.
        exact: the number of rows that repeat a training text, up to case, white space and Unicode compatibility forms.
        near: the number of others that share four fifths of their character 4-grams with one; None: not searched for.
    """

    rows: np.ndarray
    exact: int
    near: int | None


def unseen(train: Examples, examples: Examples) -> Unseen:
    """Find rows that do not repeat a training text, exactly or nearly; with much text, only exact repeats count."""
    train_keys = train.keys
    is_repeat = examples.keys.among(train_keys)
    fresh, exact = np.flatnonzero(~is_repeat), int(is_repeat.sum())
    compared = (train, train_keys.firsts() == np.arange(len(train_keys))), (examples, ~is_repeat)
    if sum(len(text) for each in compared for text in _texts(*each)) > _MOST_CHARACTERS:
        return Unseen(fresh, exact, None)
    train_texts, fresh_texts = (list(_texts(*each)) for each in compared)
    near = np.array(near_any(train_texts, fresh_texts), bool)
    return Unseen(fresh[~near], exact, int(near.sum()))


def _texts(examples: Examples, chosen: np.ndarray) -> Iterator[str]:
    return compress(whole_texts(examples.texts, examples.pairs), chosen)
