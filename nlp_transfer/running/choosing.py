"""Which strategy and objective `strategy=auto` stands for, and why: a rule that was made from measurements.

`recipes/benchmarks/choosing.py` holds it against every strategy in hindsight, on data sets that it was made from and on
others; its results stand in recipes/README.md. It imports no torch.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from itertools import chain
from typing import TYPE_CHECKING

from nlp_transfer import config
from nlp_transfer.checks import check_strategy
from nlp_transfer.encoder.sizes import configuration_of, weights_per_token
from nlp_transfer.encoder.source import locate_folder
from nlp_transfer.objectives.checks import FEWEST_COMPARED
from nlp_transfer.objectives.settings import ClassifySettings, ContrastSettings
from nlp_transfer.running.naming import names_tell
from nlp_transfer.strategies import Auto, Finetune, Probe
from nlp_transfer.strategies.finetune import usual_rate
from nlp_transfer.training.length import batch_size, planned_steps
from nlp_transfer.wording import counted

if TYPE_CHECKING:
    from pathlib import Path

    from nlp_transfer.data.corpus import Corpus
    from nlp_transfer.data.task import Task
    from nlp_transfer.settings import Settings

FEW = 100  # training rows a class below which texts that are compared teach more than labels do
FEW_PAIRS = 300  # training pairs a class below which a probe tells best what two texts are to each other
FEW_ROWS = 1000  # in all, below which a head that is fitted once more, to what the encoder has learned, is better
MOST_CLASSES = 8  # with 6 at most that was measured; with 12 and with 77 it is not so
LABEL_TEXTS = ("{}", "This is {}.", "This sentence is {}.", "It is about {}.", "The topic is {}.", "An example of {}.")
_STEPS, _HANDFUL = 100, 20  # at least, of that training; with fewer rows a class as many as any training has
_DECILES = 10  # of numbers stand for classes
_A_CORE, _A_GPU = 4e10, 2e13  # operations a second, which most machines exceed
_A_TOKEN = 4  # characters
_LONGEST = 512  # tokens of a text that count


def resolve_auto(settings: Settings, corpus: Corpus) -> tuple[Settings, str]:
    """Return the settings with the strategy that `strategy=auto` stands for, and why it is that one.

    That is full fine-tuning; with fewer than 1,000 single texts, of one label each or several, the head is fitted once
    more at its end. With at most 8 classes and fewer than 100 single texts of each, of one label each, the encoder
    learns to tell the labels apart by comparing texts alone (`objective.contrast`), at half the learning rate, in 100
    steps at least from 20 rows a class on, and the head is fitted last and the last weights are kept. Neither is done
    where other terms or weights than the usual were asked for, nor the former under a head of several layers or of the
    encoder's own, nor is anything compared where a step is too small for that. It learns from the names of the labels
    as well (`data.label_texts`), if they tell. With fewer than 300 pairs of texts a class, each text read alone, it is
    the probe, unless words about the training ask for one; so it is where `strategy.minutes` are fewer than fine-tuning
    would take by the size of encoder and texts and the number of cores: nothing is timed for that, so that the same
    words are the same run, on every rank. Other strategies are left as they are, for no reason.

    Args:
        settings: of a run.
        corpus: its data.

    Raises:
        UserError: where the choice does not suit other settings.
    """
    if not isinstance(settings.strategy, Auto):
        return settings, ""
    task, rows, minutes = corpus.task, len(corpus.splits["train"]), settings.strategy.minutes
    few = rows / classes_of(task)
    taken, probe = (_named(settings, dataclasses.replace(settings, strategy=each)) for each in (Finetune(), Probe()))
    if few < FEW_PAIRS and _probes_pairs(settings, task):
        taken, minutes = probe, None
        unit = "class" if task.labels else "decile"
        why = f"probe, for {_rows(few, 'pair')} a {unit}, each text read alone, are fewer than {FEW_PAIRS}"
    elif obstacle := _why_not_compared(settings, task, few):
        why = f"finetune, for {obstacle}"
        if rows < FEW_ROWS and _fits_again(settings, task):
            taken = dataclasses.replace(taken, strategy=Finetune(head_last=True))
            why += f"; its head is fitted once more at the end, for in all there are fewer than {FEW_ROWS:,} rows"
    else:
        taken = _comparing(taken, few)
        why = f"finetune by comparing texts, for {_rows(few)} a class are fewer than {FEW}"
        if _may_learn_names(settings) and names_tell(settings, corpus, LABEL_TEXTS):
            taken = dataclasses.replace(taken, data=dataclasses.replace(taken.data, label_texts=list(LABEL_TEXTS)))
            why += ", and from the names of the labels, to which the texts are near"
    if minutes is not None and (needed := _minutes(taken, corpus)) > minutes:
        taken = probe
        why = f"probe, for finetune may take {needed:.2g} minutes, and there are {minutes:g}"
    check_strategy(taken)
    return taken, f"strategy=auto is {why} ({counted(rows, 'training row')})"


def classes_of(task: Task) -> int:
    """Return how many classes there are; of numbers a decile counts as one."""
    return len(task.labels) or _DECILES


def _probes_pairs(settings: Settings, task: Task) -> bool:
    """Return whether texts are pairs, each to be read alone, and no training or head that needs it was asked for."""
    encoder, training = settings.encoder, settings.training
    plain = _has_plain_head(settings) and encoder.depth is None
    steps = training.min_steps or training.ema or {training.epochs, training.max_steps, training.patience} != {None}
    pairs = task.pair and task.problem in ("single_label", "regression")
    if not (pairs and plain and _is_usual(settings)) or steps or settings.pretraining.used:
        return False
    from nlp_transfer.encoder.heads import reads_alone

    return reads_alone(encoder, task, _folder(settings))


def _why_not_compared(settings: Settings, task: Task, few: float) -> str:
    """Return why texts are not compared; nothing where they are."""
    if not _compares(settings, task):
        return "comparing texts does not suit the task, or something else was asked for"
    if (classes := classes_of(task)) > MOST_CLASSES:
        return f"{classes:,} classes are more than {MOST_CLASSES}"
    return f"{_rows(few)} a class are no fewer than {FEW}" if few >= FEW else ""


def _rows(few: float, noun: str = "row") -> str:
    """Write how many training rows there are of a class, which need be no whole number."""
    return f"{few:.3g} training {noun}{'' if few == 1 else 's'}"


def _compares(settings: Settings, task: Task) -> bool:
    """Return whether there are single texts to compare, and nothing else was asked for: with pairs it is worse."""
    several = (settings.training.batch_size or FEWEST_COMPARED) >= FEWEST_COMPARED
    single = task.problem == "single_label" and not task.pair
    return single and several and settings.training.patience is None and _is_usual(settings)


def _fits_again(settings: Settings, task: Task) -> bool:
    """Return whether there are single texts with labels, and nothing else was asked for; of numbers it is worse."""
    labels = task.problem in ("single_label", "multi_label") and not task.pair
    return labels and _has_plain_head(settings) and _is_usual(settings) and not settings.continual.used


def _has_plain_head(settings: Settings) -> bool:
    """Return whether the head is one layer on pooled states."""
    return settings.encoder.head in ("auto", "pooled") and not settings.encoder.hidden


def _is_usual(settings: Settings) -> bool:
    """Return whether no other objective, weights or encoder were asked for."""
    return (
        settings.objective == {"classify": ClassifySettings()}
        and settings.data.class_weights == "none"
        and settings.encoder.pretrained
        and not settings.continual.keeps_labels
    )


def _may_learn_names(settings: Settings) -> bool:
    """Return whether texts may be made of names, and nothing else was asked for; code of its own is not asked."""
    return settings.data.label_texts is None and not (settings.continual.used or settings.encoder.trust_remote_code)


def _comparing(settings: Settings, few: float) -> Settings:
    """Return the settings of a training by comparison: the head is fitted last, so no step is known to be better.

    Args:
        settings: of the run.
        few: its training rows a class.
    """
    shape = configuration_of(_folder(settings))
    width = next((shape[key] for key in ("hidden_size", "dim", "d_model", "n_embd") if key in shape), None)
    classify = dataclasses.replace(settings.objective["classify"], weight=0.0)
    training = dataclasses.replace(settings.training, keep="last")
    if training.epochs is None and few >= _HANDFUL:
        training = dataclasses.replace(training, min_steps=max(training.min_steps, _STEPS))
    return dataclasses.replace(
        settings,
        strategy=Finetune(lr=usual_rate(width) / 2 if width else None, head_last=True),
        objective={"classify": classify, "contrast": ContrastSettings()},
        training=training,
    )


def _named(auto: Settings, settings: Settings) -> Settings:
    """Return the settings, named after their own strategy if the name was not given."""
    usual = config.default_name(auto) == auto.name
    return dataclasses.replace(settings, name=config.default_name(settings)) if usual else settings


def _minutes(settings: Settings, corpus: Corpus) -> float:
    """Return about how many minutes fine-tuning takes: six operations a weight and token (Kaplan et al. 2020)."""
    weights = weights_per_token(_folder(settings), depth=settings.encoder.depth)
    train, training = corpus.splits["train"], settings.training
    lengths = map(len, chain(train.texts, train.pairs or ()))
    tokens = sum(min(_LONGEST, 2 + length / _A_TOKEN) for length in lengths) / len(train)
    rows = len(train) + len(settings.data.label_texts or ()) * len(corpus.task.labels)
    examples = batch_size(rows, training) * planned_steps(rows, training)
    rate = _A_GPU if shutil.which("nvidia-smi") else _A_CORE * (os.cpu_count() or 1)
    return 6 * weights * tokens * examples / rate / 60


def _folder(settings: Settings) -> Path:
    """Return where the encoder lies; its weights are verified when they are loaded."""
    return locate_folder(settings.encoder)[0]
