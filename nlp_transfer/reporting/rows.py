"""What single rows tell: which are the most wrong, and which the training rows hold already."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.data.rows import whole_texts
from nlp_transfer.data.task import likeliest
from nlp_transfer.evaluation.decisions import decide, probabilities
from nlp_transfer.inspection.near import near_some

if TYPE_CHECKING:
    from nlp_transfer.data.corpus import Examples
    from nlp_transfer.data.task import Task

_MOST_CHARACTERS = 1_500_000  # in which near repeats are looked for: about two seconds


@dataclass(frozen=True)
class Mistake:
    """A row that was answered wrongly.

    Attributes:
        row: its number.
        true, given: what it is, and what was said.
        sure: the probability of what was said; multi_label: of the label that is the most wrong; regression: the error.
        about: multi_label: that label.
    """

    row: int
    true: str
    given: str
    sure: float
    about: str = ""


def worst(task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray, *, most: int) -> list[Mistake]:
    """Return the rows on which the model was the most surely wrong; regression: those of the largest errors."""
    if task.problem == "regression":
        return _farthest(logits.reshape(-1), targets, weights, most)
    if task.problem == "multi_label":
        return _most_wrong_labels(task, logits, targets, weights, most)
    chosen = decide(task, logits)
    true = likeliest(targets)
    sure = probabilities(task, logits)[np.arange(len(chosen)), chosen]
    wrong = np.flatnonzero((true != chosen) & (weights > 0))
    order = wrong[np.argsort(-sure[wrong], kind="stable")][:most]
    return [Mistake(int(row), task.labels[true[row]], task.labels[chosen[row]], float(sure[row])) for row in order]


def _farthest(values: np.ndarray, targets: np.ndarray, weights: np.ndarray, most: int) -> list[Mistake]:
    gaps = np.where(weights > 0, np.abs(values.astype(np.float64) - targets), 0)
    order = [row for row in np.argsort(-gaps, kind="stable")[:most] if gaps[row]]
    return [Mistake(int(row), f"{targets[row]:.4g}", f"{values[row]:.4g}", float(gaps[row])) for row in order]


def _most_wrong_labels(
    task: Task, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray, most: int
) -> list[Mistake]:
    """Return the rows with the label whose decision is wrong and whose probability is the farthest from the truth."""
    likely, chosen, true = probabilities(task, logits), decide(task, logits), targets >= 0.5
    off = np.where(chosen != true, np.abs(likely - true), 0) * (weights > 0)[:, None]
    label = off.argmax(axis=1)
    far = off[np.arange(len(off)), label]
    order = [row for row in np.argsort(-far, kind="stable")[:most] if far[row]]

    def names(marks: np.ndarray) -> str:
        return ", ".join(task.labels[place] for place in np.flatnonzero(marks)) or "none"

    return [
        Mistake(int(row), names(true[row]), names(chosen[row]), float(likely[row, label[row]]), task.labels[label[row]])
        for row in order
    ]


@dataclass(frozen=True)
class Unseen:
    """Rows without those whose text stands in the training split.

    Attributes:
        rows: int64 (rows,): those that are left.
        exact: how many have a text of the training rows, but for case, white space and Unicode compatibility forms.
        near: how many more share four fifths of their character 4-grams with one; None: that was not looked for.
    """

    rows: np.ndarray
    exact: int
    near: int | None


def unseen(train: Examples, examples: Examples) -> Unseen:
    """Return which rows the training split does not hold, exactly or nearly; of much text the exact ones alone."""
    known = train.keys
    held = examples.keys.among(known)
    fresh, exact = np.flatnonzero(~held), int(held.sum())
    compared = (train, known.firsts() == np.arange(len(known))), (examples, ~held)
    if sum(len(text) for each in compared for text in _texts(*each)) > _MOST_CHARACTERS:
        return Unseen(fresh, exact, None)
    learned, asked = (list(_texts(*each)) for each in compared)
    near = np.array(near_some(learned, asked), bool)
    return Unseen(fresh[~near], exact, int(near.sum()))


def _texts(examples: Examples, chosen: np.ndarray) -> Iterator[str]:
    return compress(whole_texts(examples.texts, examples.pairs), chosen)
