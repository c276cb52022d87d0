"""The strategy that is one of the others: it stands in the settings until the rows are known, see ``choosing``."""

from __future__ import annotations

from dataclasses import dataclass

from nlp_transfer.errors import UserError
from nlp_transfer.strategies.base import Strategy


@dataclass(frozen=True, kw_only=True)
class Auto(Strategy):
    """Full fine-tuning, by labels or by comparing texts, or the probe, chosen by rows, pairs of texts and time.

    Attributes:
        minutes: of training that there are; None: as many as it takes.
    """

    minutes: float | None = None

    def check(self) -> None:
        """Refuse no time."""
        if self.minutes is not None and not self.minutes > 0:
            raise UserError(f"strategy.minutes={self.minutes} must be above 0")
