"""The rows of several tasks for each optimizer step; like `batches.Order` a function of (seed, epoch) alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nlp_transfer.data.batches import Order, steps_per_epoch
from nlp_transfer.data.streams import Stream, generator


def sharpness(sampling: str, temperature: float) -> float:
    """Return the temperature of a sampling method: 1 for proportional, infinity for uniform, else `temperature`."""
    return {"proportional": 1.0, "uniform": math.inf}.get(sampling, temperature)


class TaskOrder:
    r"""The order of the rows of several concatenated tasks, with temperature sampling.

    An epoch has as many rows as all tasks together. Task k with :math:`n_k` rows gets the share :math:`p_k \propto
    n_k^{1 / T}`: temperature 1 samples in proportion, infinity uniformly (Devlin 2018 for multilingual BERT;
    Arivazhagan et al. 2019, arXiv 1907.05019). Within a task no row repeats before all of its rows were used.

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
        """Return the rows of a step over all ranks, int64; steps are counted from the start of the run."""
        epoch, position = divmod(step, steps_per_epoch(self.total, self.batch_size))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self.epoch(epoch)
        return self._order[position * self.batch_size : (position + 1) * self.batch_size]

    def epoch(self, epoch: int) -> np.ndarray:
        """Return the rows of an epoch, counted from 0, in their order."""
        by_task = [
            first + order.window(epoch * turns, turns)
            for first, order, turns in zip(self._first, self._orders, self.turns, strict=False)
        ]
        return np.concatenate(by_task)[generator(self.seed, epoch, Stream.TURNS).permutation(self.total)]


def shares(rows: Sequence[int], temperature: float) -> list[int]:
    """Return how many rows of an epoch each task gets; they sum to the total number of rows.

    Args:
        rows: of each task, at least one.
        temperature: at least 1, so that every task gets at least one row.
    """
    wanted = np.asarray(rows, np.float64) ** (1 / temperature)
    exact = sum(rows) * wanted / wanted.sum()
    parts = np.floor(exact + 1e-9).astype(np.int64)
    left = sum(rows) - int(parts.sum())
    parts[np.argsort(parts - exact, kind="stable")[:left]] += 1  # the largest remainders
    return parts.tolist()
