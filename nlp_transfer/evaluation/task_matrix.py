"""What learning one task after the other does to each of them; knows a matrix of figures and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TaskMatrix:
    r"""Figures of T tasks that were learned in turn, higher ones better.

    Attributes:
        figures: float (T, T): :math:`R_{ij}`, what the model gets on task j after it has learned task i; nan where that
            was not measured, or cannot be, as for classes that it does not know yet.
        before: float (T,): :math:`b_j`, what it gets on task j before it has learned any, such as by chance.
    """

    figures: np.ndarray
    before: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Refuse what is no such matrix.

        Raises:
            ValueError: naming its shape.
        """
        shape = np.shape(self.figures)
        if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
            raise ValueError(f"a matrix of tasks is square, not {shape}")
        if self.before is not None and np.shape(self.before) != shape[:1]:
            raise ValueError(f"{shape[0]} tasks have as many figures before, not {np.shape(self.before)}")

    @property
    def average(self) -> float:
        r"""Mean over all tasks in the end: :math:`\frac1T \sum_j R_{Tj}` (Lopez-Paz and Ranzato 2017, 1706.08840)."""
        return float(self.figures[-1].mean())

    @property
    def backward_transfer(self) -> float:
        r"""What later tasks did to earlier ones, below 0: harm; nan for one task (ibid.).

        :math:`\frac{1}{T-1} \sum_{j<T} (R_{Tj} - R_{jj})`.
        """
        return _mean(self.figures[-1, :-1] - np.diag(self.figures)[:-1])

    @property
    def forward_transfer(self) -> float:
        r"""What earlier tasks did to those not learned yet; nan for one task, or without figures of that (ibid.).

        :math:`\frac{1}{T-1} \sum_{j>1} (R_{j-1,j} - b_j)`.
        """
        if self.before is None:
            return np.nan
        return _mean(np.diag(self.figures, k=1) - np.asarray(self.before)[1:])

    @property
    def forgetting(self) -> float:
        r"""How far tasks but the last fell from their best; nan for one task (Chaudhry et al. 2018, arXiv 1801.10112).

        :math:`\frac{1}{T-1} \sum_{j<T} \left(\max_{i<T} R_{ij} - R_{Tj}\right)`; what was not measured is no best.
        """
        if len(self.figures) == 1:
            return np.nan
        return _mean(np.nanmax(self.figures[:-1, :-1], axis=0) - self.figures[-1, :-1])


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan
