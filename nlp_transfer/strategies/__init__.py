"""Strategies: which parameters are trained, and how fast. A new one is a dataclass, a row in the table, and a YAML."""

from __future__ import annotations

from nlp_transfer.strategies.adapter import Adapter, Lora
from nlp_transfer.strategies.auto import Auto
from nlp_transfer.strategies.base import Group, Strategy
from nlp_transfer.strategies.finetune import Finetune
from nlp_transfer.strategies.probe import Probe

STRATEGIES: dict[str, type[Strategy]] = {
    "probe": Probe,
    "finetune": Finetune,
    "lora": Lora,
    "adapter": Adapter,
    "auto": Auto,
}

__all__ = ["STRATEGIES", "Adapter", "Auto", "Finetune", "Group", "Lora", "Probe", "Strategy"]
