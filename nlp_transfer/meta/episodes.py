"""Division of classes into training and held-out ones, and sampling of episodes, as pure functions of the seed.

An episode simulates a future task (Vinyals et al. 2016, "Matching networks", arXiv 1606.04080): some classes, a few
support rows of each to make a head, and query rows to evaluate it. This module is independent of models.
"""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nlp_transfer.data.batches import Columns
from nlp_transfer.data.streams import Stream, generator
from nlp_transfer.errors import UserError
from nlp_transfer.verb_settings import MetaSettings


@dataclass(frozen=True)
class Division:
    """A division of the classes of a task into disjoint parts, as sorted indices of its labels.

    Attributes:
        train: classes to train on.
        validation: classes to choose the weights by; may be empty.
        test: held-out classes to evaluate on.
        small: classes with too few rows for an episode.
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    small: tuple[int, ...]

    @property
    def sentence(self) -> str:
        """A description of the division."""
        small = f"; {_classes(self.small)} left out for too few rows" if self.small else ""
        validation = f", {len(self.validation)} to choose the weights by" if self.validation else ""
        return f"{_classes(self.train)} to train on{validation}, {len(self.test)} held out{small}"


class Part(NamedTuple):
    """Rows of an episode, class by class.

    Attributes:
        rows: int64 (rows,), indices of the rows.
        answers: int64 (rows,), the class of each row, numbered from 0 within the episode.
    """

    rows: np.ndarray
    answers: np.ndarray


@dataclass(frozen=True)
class Episode:
    """A task of a few classes.

    Attributes:
        classes: int64 (ways,), indices of the classes.
        support: rows from which a head is made.
        queries: rows that evaluate the head.
    """

    classes: np.ndarray
    support: Part
    queries: Part

    @property
    def whole(self) -> Part:
        """The support rows followed by the query rows."""
        return Part(*(np.concatenate(both) for both in zip(self.support, self.queries, strict=True)))


class Episodes:
    """A sequence of random episodes, each determined by the seed and its number.

    Args:
        targets: int64 (rows,), the class of each row.
        classes: the classes to draw from.
        ways: classes per episode.
        shots: support rows per class.
        queries: query rows per class.
        seed: of the run.
        stream: of random numbers, see `Stream`: for training, validation or test episodes.
    """

    def __init__(
        self,
        targets: np.ndarray,
        classes: tuple[int, ...],
        *,
        ways: int,
        shots: int,
        queries: int,
        seed: int,
        stream: int,
    ) -> None:
        self.classes, self.ways, self.shots, self.queries = np.array(classes), ways, shots, queries
        self._rows = [np.flatnonzero(targets == each) for each in classes]
        self._seed, self._stream = seed, stream

    def draw(self, index: int) -> Episode:
        """Return an episode by its number; classes and rows are drawn without replacement."""
        random = generator(self._seed, index, self._stream)
        chosen = random.permutation(len(self.classes))[: self.ways]
        rows = np.stack([random.permutation(self._rows[each])[: self.shots + self.queries] for each in chosen])
        parts = rows[:, : self.shots], rows[:, self.shots :]
        answers = np.arange(len(chosen))
        return Episode(self.classes[chosen], *(Part(part.ravel(), np.repeat(answers, part.shape[1])) for part in parts))


def rows_of_classes(rows: Columns, classes: tuple[int, ...]) -> Columns:
    """Return only the rows of some classes, in their order."""
    chosen = np.flatnonzero(np.isin(rows.targets, classes))
    return Columns(rows.tokens.take(chosen), rows.targets[chosen], rows.weights[chosen])


def divide(targets: np.ndarray, labels: int, settings: MetaSettings, *, seed: int) -> Division:
    """Randomly divide the classes of a task, with shares `held_out` for test and `validation` for validation.

    Args:
        targets: int64 (rows,), the class of each row.
        labels: number of classes.
        settings: the `meta` group.
        seed: of the run.

    Raises:
        UserError: if too few classes have enough rows.
    """
    needed = settings.shots + settings.queries
    counts = np.bincount(targets, minlength=labels)
    usable, small = np.flatnonzero(counts >= needed), np.flatnonzero(counts < needed)
    held_out = max(settings.ways, round(settings.held_out * len(usable)))
    for_validation = max(2, round(settings.validation * len(usable))) if settings.validation else 0
    if len(usable) - held_out - for_validation < settings.ways:
        minimum = 2 * settings.ways + for_validation
        fewer = f" ({_classes(small)} more with fewer)" if len(small) else ""
        raise UserError(
            f"meta.ways={settings.ways}: {_classes(usable)} with at least {needed} rows "
            f"(meta.shots + meta.queries){fewer} cannot be divided into {settings.ways} to train on, {for_validation} "
            f"for validation and {held_out} held out; use fewer ways, shots or queries, a smaller meta.held_out, "
            f"or data with at least {minimum} such classes"
        )
    order = generator(seed, 0, Stream.CLASSES).permutation(usable)
    test, validation, train = np.split(order, [held_out, held_out + for_validation])
    parts = (tuple(sorted(part.tolist())) for part in (train, validation, test, small))
    return Division(*parts)


def _classes(classes: Sized) -> str:
    return f"{len(classes):,} class{'' if len(classes) == 1 else 'es'}"
