"""The rule by which `strategy=auto` chooses strategy and objective, derived from measurements.

`recipes/benchmarks/choosing.py` compares it with the best strategy in hindsight, on the data sets it was derived from
and on others; the results are in recipes/README.md. Imports no torch.
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
from nlp_transfer.running.naming import names_are_informative
from nlp_transfer.strategies import Auto, Finetune, Probe
from nlp_transfer.strategies.finetune import usual_rate
from nlp_transfer.training.length import batch_size, planned_steps
from nlp_transfer.wording import counted

if TYPE_CHECKING:
    from pathlib import Path

    from nlp_transfer.data.corpus import Corpus
    from nlp_transfer.data.task import Task
    from nlp_transfer.settings import Settings
    from nlp_transfer.strategies import Strategy

FEW = 100  # training rows per class, below which a contrastive objective beats classification
FEW_PAIRS = 300  # training pairs of texts per class, below which a probe is best
FEW_ROWS = 1000  # training rows in all, below which fitting the head once more at the end is better
MOST_CLASSES = 8  # for the contrastive objective: it was measured to be better with up to 6, not with 12 or 77
LABEL_TEXTS = ("{}", "This is {}.", "This sentence is {}.", "It is about {}.", "The topic is {}.", "An example of {}.")
_MIN_STEPS, _FROM_ROWS = 100, 20  # least steps of contrastive training, from so many rows per class on
_DECILES = 10  # of a regression's targets count as classes
_PER_CORE, _PER_GPU = 4e10, 2e13  # operations per second, which most machines exceed
_CHARACTERS = 4  # per token
_LONGEST = 512  # tokens of a text that count


def resolve_auto(settings: Settings, corpus: Corpus) -> tuple[Settings, str]:
    """Return the settings with the strategy that `strategy=auto` stands for, and the reason; "" for other strategies.

    The choices, the first that applies:

    - probe, for fewer than 300 pairs of texts per class, each text read alone, unless other settings of the training or
      the head were changed;
    - fine-tuning with `objective.contrast` only, for single texts of one label, at most 8 classes and fewer than 100
      rows per class: at half the learning rate, in at least 100 steps (from 20 rows per class on), with the last
      weights kept and the head fitted last. It also learns from the label names (`data.label_texts`), if these are
      informative.
      Not if the objective, class weights or early stopping were changed, or batches are too small;
    - fine-tuning with the head fitted once more at the end, for fewer than 1,000 single texts with labels. Not if the
      objective, class weights or the head were changed;
    - full fine-tuning.

    If fine-tuning is estimated to take longer than `strategy.minutes`, it is the probe after all. The estimate uses the
    sizes of encoder and texts and the number of cores; nothing is timed, so that all ranks choose the same.

    Args:
        settings: of a run.
        corpus: its data.

    Raises:
        UserError: if the choice does not suit other settings.
    """
    if not isinstance(settings.strategy, Auto):
        return settings, ""
    task, rows, minutes = corpus.task, len(corpus.splits["train"]), settings.strategy.minutes
    per_class = rows / classes_of(task)
    finetune, probe = (_with_strategy(settings, strategy) for strategy in (Finetune(), Probe()))
    chosen = finetune
    if per_class < FEW_PAIRS and _probes_pairs(settings, task):
        chosen, minutes = probe, None
        unit = "class" if task.labels else "decile"
        why = f"probe, because {_rows(per_class, 'pair')} per {unit}, each text read alone, are fewer than {FEW_PAIRS}"
    elif obstacle := _why_not_contrast(settings, task, per_class):
        why = f"finetune, because {obstacle}"
        if rows < FEW_ROWS and _can_refit_head(settings, task):
            chosen = dataclasses.replace(finetune, strategy=Finetune(head_last=True))
            why += f"; its head is fitted once more at the end, because there are fewer than {FEW_ROWS:,} rows in all"
    else:
        chosen = _with_contrast(finetune, per_class)
        why = f"finetune by comparing texts, because {_rows(per_class)} per class are fewer than {FEW}"
        if _may_use_names(settings) and names_are_informative(settings, corpus, LABEL_TEXTS):
            chosen = dataclasses.replace(chosen, data=dataclasses.replace(chosen.data, label_texts=list(LABEL_TEXTS)))
            why += ", and from the names of the labels, which are close to the texts"
    if minutes is not None and (needed := _minutes(chosen, corpus)) > minutes:
        chosen = probe
        why = f"probe, because finetune may take {needed:.2g} minutes, and there are {minutes:g}"
    check_strategy(chosen)
    return chosen, f"strategy=auto is {why} ({counted(rows, 'training row')})"


def classes_of(task: Task) -> int:
    """Return the number of classes; a regression counts as ten, its deciles."""
    return len(task.labels) or _DECILES


def _probes_pairs(settings: Settings, task: Task) -> bool:
    """Return whether texts are pairs, each read alone, and settings of head and training are the default ones."""
    encoder, training = settings.encoder, settings.training
    is_plain = _has_plain_head(settings) and encoder.depth is None and _has_default_objective(settings)
    sets_steps = (
        training.min_steps or training.ema or {training.epochs, training.max_steps, training.patience} != {None}
    )
    is_suited = task.pair and task.problem in ("single_label", "regression")
    if not (is_suited and is_plain) or sets_steps or settings.pretraining.used:
        return False
    from nlp_transfer.encoder.heads import reads_alone

    return reads_alone(encoder, task, _folder(settings))


def _why_not_contrast(settings: Settings, task: Task, per_class: float) -> str:
    """Return why the contrastive objective is not chosen, "" if it is."""
    classes, batch = classes_of(task), settings.training.batch_size
    if per_class >= FEW:
        return f"{_rows(per_class)} per class are at least {FEW}"
    if task.pair or task.problem != "single_label":
        return f"{'pairs are' if task.pair else f'problem {task.problem} is'} not learned by comparing texts"
    if classes > MOST_CLASSES:
        return f"{classes:,} classes are more than {MOST_CLASSES}"
    if batch is not None and batch < FEWEST_COMPARED:
        return f"training.batch_size={batch} is too small for comparing texts, which needs {FEWEST_COMPARED}"
    if settings.training.patience is not None:
        return "training.patience is set, which does not work with comparing texts"
    is_default = _has_default_objective(settings)
    return (
        "" if is_default else "objective, data.class_weights, encoder.pretrained or continual.labels is not the default"
    )


def _rows(per_class: float, noun: str = "row") -> str:
    """Return the training rows per class in words; the number need not be whole."""
    number = f"{per_class:,.1f}".removesuffix(".0")
    return f"{number} training {noun}{'' if per_class == 1 else 's'}"


def _can_refit_head(settings: Settings, task: Task) -> bool:
    """Return whether single texts have labels, and objective and head are the defaults; for regression it is worse."""
    is_suited = task.problem in ("single_label", "multi_label") and not task.pair
    is_plain = _has_plain_head(settings) and _has_default_objective(settings)
    return is_suited and is_plain and not settings.continual.used


def _has_plain_head(settings: Settings) -> bool:
    """Return whether the head is a single layer on pooled token vectors."""
    return settings.encoder.head in ("auto", "pooled") and not settings.encoder.hidden


def _has_default_objective(settings: Settings) -> bool:
    """Return whether objective and class weights are the default ones, for a pretrained encoder with a new head."""
    return (
        settings.objective == {"classify": ClassifySettings()}
        and settings.data.class_weights == "none"
        and settings.encoder.pretrained
        and not settings.continual.keeps_labels
    )


def _may_use_names(settings: Settings) -> bool:
    """Return whether sentences may be made of label names by default; the encoder must not run code of its own."""
    return settings.data.label_texts is None and not (settings.continual.used or settings.encoder.trust_remote_code)


def _with_contrast(settings: Settings, per_class: float) -> Settings:
    """Return the settings of contrastive training; the head is fitted last, so that steps cannot be compared before.

    Args:
        settings: of the run.
        per_class: its training rows per class.
    """
    encoder_config = configuration_of(_folder(settings))
    width_keys = ("hidden_size", "dim", "d_model", "n_embd")
    width = next((encoder_config[key] for key in width_keys if key in encoder_config), None)
    classify = dataclasses.replace(settings.objective["classify"], weight=0.0)
    training = dataclasses.replace(settings.training, keep="last")
    if training.epochs is None and per_class >= _FROM_ROWS:
        training = dataclasses.replace(training, min_steps=max(training.min_steps, _MIN_STEPS))
    return dataclasses.replace(
        settings,
        strategy=Finetune(lr=usual_rate(width) / 2 if width else None, head_last=True),
        objective={"classify": classify, "contrast": ContrastSettings()},
        training=training,
    )


def _with_strategy(settings: Settings, strategy: Strategy) -> Settings:
    """Return the settings with a strategy, and named after it if no name was given."""
    changed = dataclasses.replace(settings, strategy=strategy)
    has_default_name = config.default_name(settings) == settings.name
    return dataclasses.replace(changed, name=config.default_name(changed)) if has_default_name else changed


def _minutes(settings: Settings, corpus: Corpus) -> float:
    """Estimate the minutes of fine-tuning: six operations per weight and token (Kaplan et al. 2020)."""
    weights = weights_per_token(_folder(settings), depth=settings.encoder.depth)
    train, training = corpus.splits["train"], settings.training
    lengths = map(len, chain(train.texts, train.pairs or ()))
    tokens = sum(min(_LONGEST, 2 + length / _CHARACTERS) for length in lengths) / len(train)
    rows = len(train) + len(settings.data.label_texts or ()) * len(corpus.task.labels)
    examples = batch_size(rows, training) * planned_steps(rows, training)
    rate = _PER_GPU if shutil.which("nvidia-smi") else _PER_CORE * (os.cpu_count() or 1)
    return 6 * weights * tokens * examples / rate / 60


def _folder(settings: Settings) -> Path:
    """Return the encoder's folder; its weights are verified when they are loaded."""
    return locate_folder(settings.encoder)[0]
