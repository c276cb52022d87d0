"""The placeholder for a strategy that is chosen once the data are known, see ``running.choosing``."""

from __future__ import annotations

from dataclasses import dataclass

from nlp_transfer.errors import UserError
from nlp_transfer.strategies.base import Strategy


@dataclass(frozen=True, kw_only=True)
class Auto(Strategy):
    """Full fine-tuning, with or without a contrastive objective, or the probe, chosen by rows, pairs and time.

    Attributes:
        minutes: the time available for training; None: unlimited.
    """

    minutes: float | None = None

    def check(self) -> None:
        """Refuse a time that is not positive."""
        if self.minutes is not None and not self.minutes > 0:
            raise UserError(f"strategy.minutes={self.minutes} must be above 0")
