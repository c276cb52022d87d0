"""Which rows of several tasks meet at which optimizer step; like `batches.Order` a function of (seed, epoch) alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nlp_transfer.data.batches import Order, steps_per_epoch
from nlp_transfer.data.streams import Stream, generator


def sharpness(sampling: str, temperature: float) -> float:
    """Return the temperature that a way of sampling is: 1 where it is proportional, without end where uniform."""
    return {"proportional": 1.0, "uniform": math.inf}.get(sampling, temperature)


class TaskOrder:
    r"""An order of the rows of several tasks, which lie one behind the other.

    An epoch has as many rows as there are. Of these task k has the share :math:`p_k \propto n_k^{1 / T}`, :math:`n_k`
    being its rows: temperature 1 samples in proportion, infinity all tasks alike (Devlin 2018 for multilingual BERT;
    Arivazhagan et al. 2019, arXiv 1907.05019). Within a task no row comes again before all of its rows came.

    Args:
        rows: of each task.
        batch_size: rows of a step over all ranks.
        seed: of the run.
        temperature: T.
    """

    def __init__(self, rows: Sequence[int], *, batch_size: int, seed: int, temperature: float) -> None:
        self.rows, self.batch_size, self.seed = list(rows), batch_size, seed
        self.total = sum(rows)
        self.turns = shares(rows, temperature)
        self._first = np.cumsum([0, *rows])
        self._orders = [
            Order(count, batch_size=batch_size, seed=seed, _stream=Stream.TASK_ROWS + task)
            for task, count in enumerate(rows)
        ]
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def step(self, step: int) -> np.ndarray:
        """Return the rows of a step over all ranks, counted from the first of the run, int64."""
        epoch, position = divmod(step, steps_per_epoch(self.total, self.batch_size))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self.epoch(epoch)
        return self._order[position * self.batch_size : (position + 1) * self.batch_size]

    def epoch(self, epoch: int) -> np.ndarray:
        """Return the rows of an epoch, counted from 0, in their order."""
        drawn = [
            first + order.drawn(epoch * turns, turns)
            for first, order, turns in zip(self._first, self._orders, self.turns, strict=False)
        ]
        return np.concatenate(drawn)[generator(self.seed, epoch, Stream.TURNS).permutation(self.total)]


def shares(rows: Sequence[int], temperature: float) -> list[int]:
    """Return how many rows of an epoch each task has, at least one: as many in all as there are rows.

    Args:
        rows: of each task, at least one.
        temperature: at least 1; the exact share of no task is below one row then.
    """
    wanted = np.asarray(rows, np.float64) ** (1 / temperature)
    exact = sum(rows) * wanted / wanted.sum()
    parts = np.floor(exact + 1e-9).astype(np.int64)
    left = sum(rows) - int(parts.sum())
    parts[np.argsort(parts - exact, kind="stable")[:left]] += 1  # the largest remainders
    return parts.tolist()
