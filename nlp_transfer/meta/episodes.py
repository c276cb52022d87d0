"""Which classes are learned of and which are held out, and which rows meet in an episode: pure functions of the seed.

Episodes stand in for the task that is to come (Vinyals et al. 2016, "Matching networks", arXiv 1606.04080): some
classes, a few rows of each to make a head of, and others to ask it about. This file knows no model.
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
    """The classes of a task, each in one part; sorted indices of its labels.

    Attributes:
        train: what is learned of.
        validation: what weights are chosen by; may be empty.
        test: what is measured on.
        small: what has too few rows for an episode.
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    small: tuple[int, ...]

    @property
    def sentence(self) -> str:
        """How the classes are divided, in words."""
        left = f"; {_classes(self.small)} left out for too few rows" if self.small else ""
        chosen = f", {len(self.validation)} choose the weights" if self.validation else ""
        return f"{_classes(self.train)} to learn of{chosen}, {len(self.test)} held out{left}"


class Part(NamedTuple):
    """Rows of an episode, class by class.

    Attributes:
        rows: int64 (rows,), which they are.
        answers: int64 (rows,), which of the episode's classes, counted from 0, each is of.
    """

    rows: np.ndarray
    answers: np.ndarray


@dataclass(frozen=True)
class Episode:
    """A task of a few classes.

    Attributes:
        classes: int64 (ways,), which they are.
        support: what a head is made of.
        queries: what it is asked about.
    """

    classes: np.ndarray
    support: Part
    queries: Part

    @property
    def whole(self) -> Part:
        """The support and behind it the queries."""
        return Part(*(np.concatenate(both) for both in zip(self.support, self.queries, strict=True)))


class Episodes:
    """The episodes of some classes; which rows meet in one hangs on the seed and its number alone.

    Args:
        targets: int64 (rows,), the class of each row.
        classes: from which an episode draws.
        ways: classes of an episode.
        shots: rows of each in the support.
        queries: further rows of each.
        seed: of the run.
        stream: of random numbers, see `Stream`: of episodes to learn from, to choose by or to measure on.
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
        """Return an episode by its number; neither its classes nor its rows are drawn twice."""
        random = generator(self._seed, index, self._stream)
        chosen = random.permutation(len(self.classes))[: self.ways]
        rows = np.stack([random.permutation(self._rows[each])[: self.shots + self.queries] for each in chosen])
        parts = rows[:, : self.shots], rows[:, self.shots :]
        answers = np.arange(len(chosen))
        return Episode(self.classes[chosen], *(Part(part.ravel(), np.repeat(answers, part.shape[1])) for part in parts))


def rows_of_classes(rows: Columns, classes: tuple[int, ...]) -> Columns:
    """Return the rows of some classes alone, in their order."""
    chosen = np.flatnonzero(np.isin(rows.targets, classes))
    return Columns(rows.tokens.take(chosen), rows.targets[chosen], rows.weights[chosen])


def divide(targets: np.ndarray, labels: int, settings: MetaSettings, *, seed: int) -> Division:
    """Divide the classes of a task by chance: `held_out` of them to measure on, `validation` to choose by.

    Args:
        targets: int64 (rows,), the class of each row.
        labels: how many classes there are.
        settings: the `meta` group.
        seed: of the run.

    Raises:
        UserError: where the classes that have rows enough are too few for that.
    """
    needed = settings.shots + settings.queries
    counts = np.bincount(targets, minlength=labels)
    usable, small = np.flatnonzero(counts >= needed), np.flatnonzero(counts < needed)
    held_out = max(settings.ways, round(settings.held_out * len(usable)))
    chosen_by = max(2, round(settings.validation * len(usable))) if settings.validation else 0
    if len(usable) - held_out - chosen_by < settings.ways:
        least = 2 * settings.ways + chosen_by
        few = f" ({_classes(small)} more with fewer)" if len(small) else ""
        raise UserError(
            f"meta.ways={settings.ways}: {_classes(usable)} with at least {needed} rows "
            f"(meta.shots + meta.queries){few} cannot be divided into {settings.ways} to learn of, {chosen_by} to "
            f"choose by and {held_out} held out; take fewer ways, shots or queries, a smaller meta.held_out, "
            f"or data with at least {least} such classes"
        )
    order = generator(seed, 0, Stream.CLASSES).permutation(usable)
    test, validation, train = np.split(order, [held_out, held_out + chosen_by])
    parts = (tuple(sorted(part.tolist())) for part in (train, validation, test, small))
    return Division(*parts)


def _classes(some: Sized) -> str:
    return f"{len(some):,} class{'' if len(some) == 1 else 'es'}"
