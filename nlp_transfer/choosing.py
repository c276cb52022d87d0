"""Which strategy `strategy=auto` stands for, and why: a rule that was made from measurements.

`recipes/benchmarks/choosing.py` holds it against every strategy in hindsight, on data sets that it was made from and on
others; its results, few so far, stand in recipes/README.md. It imports no torch.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from typing import TYPE_CHECKING

from nlp_transfer import config
from nlp_transfer.checks import check_strategy
from nlp_transfer.encoder.source import locate, weight_files
from nlp_transfer.evaluation.formatting import counted
from nlp_transfer.strategies import Auto, Finetune, Lora, Probe
from nlp_transfer.training.length import planned_steps

if TYPE_CHECKING:
    from nlp_transfer.data.corpus import Corpus
    from nlp_transfer.data.task import Task
    from nlp_transfer.settings import Settings

FEW = 10  # rows a class below which low-rank updates do better than all weights
_DECILES = 10  # of numbers stand for classes
_A_CORE, _A_GPU = 4e10, 2e13  # operations a second, which most machines exceed
_A_TOKEN = 4  # characters
_LONGEST = 512  # tokens of a text that count


def chosen(settings: Settings, corpus: Corpus) -> tuple[Settings, str]:
    """Return the settings with the strategy that `strategy=auto` stands for, and why it is that one.

    With fewer than 10 training rows a class LoRA, with more full fine-tuning. Where `strategy.minutes` are fewer than
    that would take by the size of encoder and texts and the number of cores, the probe; nothing is timed for that, so
    that the same words are the same run, on every rank. Other strategies are left as they are, for no reason.

    Args:
        settings: of a run.
        corpus: its data.

    Raises:
        UserError: where the choice does not suit other settings.
    """
    if not isinstance(settings.strategy, Auto):
        return settings, ""
    rows, minutes = len(corpus.splits["train"]), settings.strategy.minutes
    few = rows / classes_of(corpus.task)
    strategy, compared = (Lora(), "fewer than") if few < FEW else (Finetune(), "no fewer than")
    taken = _named(settings, dataclasses.replace(settings, strategy=strategy))
    name = "lora" if few < FEW else "finetune"
    why = f"{name}, for {few:.3g} training rows a class are {compared} {FEW}"
    if minutes is not None and (needed := _minutes(taken, corpus)) > minutes:
        taken = _named(settings, dataclasses.replace(settings, strategy=Probe()))
        why = f"probe, for {name} may take {needed:.2g} minutes, and there are {minutes:g}"
    check_strategy(taken)
    return taken, f"strategy=auto is {why} ({counted(rows, 'row')})"


def classes_of(task: Task) -> int:
    """Return how many classes there are; of numbers a decile counts as one."""
    return len(task.labels) or _DECILES


def _named(auto: Settings, settings: Settings) -> Settings:
    """Return the settings, named after their own strategy if the name was not given."""
    usual = config.default_name(auto) == auto.name
    return dataclasses.replace(settings, name=config.default_name(settings)) if usual else settings


def _minutes(settings: Settings, corpus: Corpus) -> float:
    """Return about how many minutes fine-tuning takes: six operations a weight and token (Kaplan et al. 2020)."""
    source = locate(settings.encoder)
    shape = json.loads((source.folder / "config.json").read_text(encoding="utf-8"))
    bytes_ = sum(file.stat().st_size for file in weight_files(source.folder))
    shape = shape["encoder"] if isinstance(shape.get("encoder"), dict) else shape  # under our own head
    weights = max(1.0, bytes_ / 4 - shape.get("vocab_size", 0) * shape.get("hidden_size", 0))
    train, training = corpus.splits["train"], settings.training
    texts = [*train.texts, *(train.pairs or ())]
    tokens = sum(min(_LONGEST, 2 + len(text) / _A_TOKEN) for text in texts) / len(train)
    examples = training.batch_size * planned_steps(len(train), training)
    rate = _A_GPU if shutil.which("nvidia-smi") else _A_CORE * (os.cpu_count() or 1)
    return 6 * weights * tokens * examples / rate / 60
