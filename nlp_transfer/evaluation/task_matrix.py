"""Continual-learning metrics of a sequence of tasks: average, backward and forward transfer, forgetting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TaskMatrix:
    r"""Scores on T tasks that were learned one after the other; higher is better.

    Attributes:
        figures: float (T, T): :math:`R_{ij}`, the score on task j after learning task i; nan where it was not or cannot
            be measured, as for classes that are not known yet.
        before: float (T,): :math:`b_j`, the score on task j before learning any task, such as chance level.
    """

    figures: np.ndarray
    before: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Check the shapes.

        Raises:
            ValueError: naming the wrong shape.
        """
        shape = np.shape(self.figures)
        if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
            raise ValueError(f"a matrix of tasks is square, not {shape}")
        if self.before is not None and np.shape(self.before) != shape[:1]:
            raise ValueError(f"{shape[0]} tasks have as many figures before, not {np.shape(self.before)}")

    @property
    def average(self) -> float:
        r"""Mean over all tasks at the end: :math:`\frac1T \sum_j R_{Tj}` (Lopez-Paz and Ranzato 2017, 1706.08840)."""
        return float(self.figures[-1].mean())

    @property
    def backward_transfer(self) -> float:
        r"""Effect of later tasks on earlier ones, negative if harmful; nan for one task (ibid.).

        :math:`\frac{1}{T-1} \sum_{j<T} (R_{Tj} - R_{jj})`.
        """
        return _mean(self.figures[-1, :-1] - np.diag(self.figures)[:-1])

    @property
    def forward_transfer(self) -> float:
        r"""Effect of earlier tasks on tasks not learned yet; nan for one task, or without `before` (ibid.).

        :math:`\frac{1}{T-1} \sum_{j>1} (R_{j-1,j} - b_j)`.
        """
        if self.before is None:
            return np.nan
        return _mean(np.diag(self.figures, k=1) - np.asarray(self.before)[1:])

    @property
    def forgetting(self) -> float:
        r"""Mean drop of earlier tasks from their best score; nan for one task (Chaudhry et al. 2018, arXiv 1801.10112).

        :math:`\frac{1}{T-1} \sum_{j<T} \left(\max_{i<T} R_{ij} - R_{Tj}\right)`, where the maximum ignores nan.
        """
        if len(self.figures) == 1:
            return np.nan
        return _mean(np.nanmax(self.figures[:-1, :-1], axis=0) - self.figures[-1, :-1])


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan
