"""Which strategy `strategy=auto` stands for, and why: a rule that was made from measurements.

`recipes/benchmarks/choosing.py` holds it against every strategy in hindsight, on data sets that it was made from and on
others.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_transfer.checks import check_objective
from nlp_transfer.objectives.settings import ClassifySettings
from nlp_transfer.strategies import Finetune, Probe
from nlp_transfer.strategies.auto import Auto

if TYPE_CHECKING:
    from nlp_transfer.data.corpus import Corpus
    from nlp_transfer.data.task import Task
    from nlp_transfer.settings import Settings

FEW = 8  # rows a class below which nothing is moved but the head
STEPS = 150  # that a fine-tuning has at least: few rows need steps, not epochs (Mosbach et al. 2021, arXiv 2006.04884)
_DECILES = 10  # of numbers stand for classes
_STEP = 3.5  # times a forward pass
_TIMED = 64  # rows


def settled(settings: Settings, corpus: Corpus, tell: Callable[[str], None]) -> Settings:
    """Return the settings with the strategy that `strategy=auto` stands for; others as they are.

    With fewer than 8 rows a class the probe: its head is the optimum of a convex problem and cannot collapse. With more
    full fine-tuning, of at least 150 steps. Where `strategy.minutes` are fewer than that would take, by the time that a
    forward pass of 64 training rows takes here, the probe.

    Args:
        settings: of a run.
        corpus: its data.
        tell: is told which it is and why, in a sentence.

    Raises:
        UserError: where the choice does not suit the objective.
    """
    if not isinstance(settings.strategy, Auto):
        return settings
    rows, minutes = len(corpus.splits["train"]), settings.strategy.minutes
    longer = dataclasses.replace(settings.training, min_steps=max(settings.training.min_steps, STEPS))
    tuning = dataclasses.replace(settings, strategy=Finetune(), training=longer)
    probing = dataclasses.replace(settings, strategy=Probe())
    few = rows_a_class(corpus.task, rows)
    chosen, words = tuning, f"finetune: {few:.3g} training rows a class are {FEW} or more"
    if few < FEW:
        chosen, words = probing, f"probe: {few:.3g} training rows a class are fewer than {FEW}"
    elif minutes is not None and (needed := _minutes(tuning, corpus)) > minutes:
        chosen, words = probing, f"probe: fine-tuning would take about {needed:.2g} of {minutes:g} minutes"
    tell(f"strategy=auto is {words}")
    check_objective(chosen)
    return chosen


def rows_a_class(task: Task, rows: int) -> float:
    """Return the training rows there are for every class; of numbers a decile counts as one."""
    return rows / (len(task.labels) or _DECILES)


def _minutes(settings: Settings, corpus: Corpus) -> float:
    """Return about how many minutes the steps of a fine-tuning take on this machine."""
    from nlp_transfer.data.batches import Columns
    from nlp_transfer.preparation import prepare
    from nlp_transfer.training.loop import planned_steps

    plain: dict[str, Any] = {"classify": ClassifySettings()}
    prepared = prepare(dataclasses.replace(settings, strategy=Probe(), objective=plain), corpus, Path(settings.output))
    columns = prepared.columns["train"]
    some = range(0, len(columns), -(-len(columns) // _TIMED))
    sample = Columns(columns.tokens.take(some), columns.targets[some], columns.weights[some])
    prepared.below_output.fresh(sample)  # the first pass sets things up
    began = time.perf_counter()
    prepared.below_output.fresh(sample)
    a_row = (time.perf_counter() - began) / len(sample)
    steps = planned_steps(len(columns), settings.training)
    return _STEP * a_row * steps * settings.training.batch_size / 60
