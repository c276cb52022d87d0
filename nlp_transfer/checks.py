"""Validation of settings that are wrong for any data and encoder, before either is read.

This module imports no torch and opens no file. Checks that depend on rows or on a model are made once those are loaded.
"""

from __future__ import annotations

import re
from typing import Any

from nlp_transfer.continual.checks import check_continual
from nlp_transfer.data import hub
from nlp_transfer.data.label_columns import check_label_columns
from nlp_transfer.data.labels import NAME_HERE, check_problem
from nlp_transfer.data.sources import check_source
from nlp_transfer.data.truncation import check_tokens
from nlp_transfer.errors import UserError, at_least, below_one, one_of, positive
from nlp_transfer.evaluation.names import HIGHER_IS_BETTER
from nlp_transfer.objectives.checks import check_objective
from nlp_transfer.pretraining.checks import check_pretraining
from nlp_transfer.settings import DecisionSettings, EvaluationSettings, Settings, TrainingSettings
from nlp_transfer.training.schedules import SCHEDULES
from nlp_transfer.verb_settings import HubSettings


def check_settings(settings: Settings, *, data: Any = None) -> None:
    """Check the settings of a run.

    Args:
        settings: see ``config.compose``.
        data: rows from Python, see ``sources.read_source``.

    Raises:
        UserError: naming the key, its value and the allowed values.
    """
    if not 0 <= settings.seed < 2**32:
        raise UserError(f"seed={settings.seed} must lie between 0 and 2**32 - 1")
    if settings.name and (settings.name in (".", "..") or set(settings.name) & {"/", "\\"}):
        raise UserError(f"name={settings.name} must be a folder name, not a path; set output=... for its parent folder")
    check_source(settings.data, data=data)
    check_problem(settings.data.problem, settings.data.label_separator)
    check_label_columns(settings.data)
    check_tokens(settings.tokens)
    check_label_texts(settings)
    check_strategy(settings)
    check_training(settings.training)
    check_pretraining(settings)
    check_continual(settings)
    check_evaluation(settings.evaluation)
    check_decision(settings.decision)
    if settings.hub.push:
        check_hub(settings.hub)
    at_least(settings.checkpoint, "checkpoint.", 0, "seconds")
    at_least(settings.cache, "cache.", 0, "gib")


def check_label_texts(settings: Settings) -> None:
    """Check the templates of the training sentences that are made from label names.

    Raises:
        UserError: for a template without exactly one placeholder for the name, and together with continual learning,
            which appends rows of its own behind the training rows.
    """
    for template in settings.data.label_texts or ():
        if template.count(NAME_HERE) != 1:
            raise UserError(
                f"data.label_texts: {template!r} must have {NAME_HERE} once, where the name of the label stands"
            )
    if settings.data.label_texts and settings.continual.used:
        raise UserError(
            "data.label_texts cannot be combined with continual learning: set it to null, or leave out "
            "continual.labels and continual.replay"
        )


def check_strategy(settings: Settings) -> None:
    """Check a strategy by itself, and together with the settings that depend on it.

    Raises:
        UserError: naming the key, its value and the allowed values.
    """
    strategy = settings.strategy
    strategy.check()
    if not settings.encoder.pretrained and strategy.adapts:
        raise UserError(
            "encoder.pretrained=false leaves no pretrained weights for an adapter; use strategy=finetune, or probe"
        )
    if settings.encoder.depth == 0 and strategy.adapts:
        raise UserError("encoder.depth=0 leaves no layer for an adapter; use strategy=finetune, or probe")
    if settings.hub.push and settings.hub.layout == "adapter" and not strategy.adapts:
        raise UserError("hub.layout=adapter needs a strategy that makes an adapter: strategy=lora or strategy=adapter")
    check_objective(settings)


def check_training(settings: TrainingSettings) -> None:
    """Check every value of the `training` group that has a range or a list of choices.

    Raises:
        UserError: naming the key, its value and the allowed values.
    """
    one_of(settings.schedule, SCHEDULES, "training.schedule")
    one_of(settings.keep, ("best", "last"), "training.keep")
    one_of(settings.precision, ("auto", "fp32", "bf16", "fp16"), "training.precision")
    at_least(settings, "training.", 1, "batch_size", "micro_batch_size", "micro_batch_tokens", "patience")
    at_least(settings, "training.", 0, "min_steps", "weight_decay", "max_grad_norm")
    at_least(settings, "training.", 1, "max_steps", "max_skipped")
    positive(settings, "training.", "epochs", "epsilon", "evaluate_every")
    below_one(settings, "training.", "warmup", "ema")
    if len(settings.betas) != 2 or not all(0 <= beta < 1 for beta in settings.betas):
        raise UserError(f"training.betas={list(settings.betas)} must be two numbers in [0, 1)")


def check_evaluation(settings: EvaluationSettings) -> None:
    """Check the values of the `evaluation` group. Whether the metric suits the task is checked with the data.

    Raises:
        UserError: naming the key, its value and the allowed values.
    """
    one_of(settings.metric, ("auto", *HIGHER_IS_BETTER), "evaluation.metric")
    if not 0 < settings.confidence < 1:
        raise UserError(f"evaluation.confidence={settings.confidence} must lie between 0 and 1")
    at_least(settings, "evaluation.", 1, "resamples", "batch_tokens")


def check_decision(settings: DecisionSettings) -> None:
    """Check the values of the `decision` group. Whether they suit the problem type is checked with the data.

    Raises:
        UserError: naming the key, its value and the allowed values.
    """
    if settings.threshold is not None and not 0 < settings.threshold < 1:
        raise UserError(f"decision.threshold={settings.threshold} must lie between 0 and 1")
    if settings.abstain_below is not None and not 0 <= settings.abstain_below < 1:
        raise UserError(f"decision.abstain_below={settings.abstain_below} must lie in [0, 1); 0: never")
    if settings.risk is not None and not 0 <= settings.risk < 1:
        raise UserError(f"decision.risk={settings.risk} must lie in [0, 1); 0: no limit")
    check_one_rule(settings)
    if settings.unknown is not None and not 0 <= settings.unknown <= 0.5:
        raise UserError(f"decision.unknown={settings.unknown} must lie in [0, 0.5]; 0: nothing is called unknown")
    if settings.coverage is not None and not 0 <= settings.coverage < 1:
        raise UserError(f"decision.coverage={settings.coverage} must lie in [0, 1); 0: no sets")


def check_one_rule(settings: DecisionSettings) -> None:
    """Check that at most one rule decides when a model abstains.

    Raises:
        UserError: naming both.
    """
    abstain_below, risk = settings.abstain_below, settings.risk
    if risk and abstain_below is not None:
        raise UserError(
            f"decision.abstain_below={abstain_below:g} and decision.risk={risk:g} both say where the model abstains: "
            "give one of them, the other null"
        )


def check_hub(settings: HubSettings) -> None:
    """Check the values of the `hub` group, for a model that will be pushed.

    Raises:
        UserError: naming the key, its value and the allowed values.
    """
    one_of(settings.layout, ("merged", "adapter"), "hub.layout")
    if settings.repository is None:
        raise UserError("hub.repository is not set: name the repository to push to, hub.repository=owner/name")
    if not hub.is_name(settings.repository):
        raise UserError(f"hub.repository={settings.repository} is not a repository name: write owner/name")
    if settings.revision is not None and not re.fullmatch(r"(?!refs/)\w[\w./-]{0,200}", settings.revision):
        raise UserError(
            f"hub.revision={settings.revision} is not a branch name; hub.create_pr=true makes a pull request"
        )
    if settings.message is not None and (settings.message != settings.message.strip() or "\n" in settings.message):
        raise UserError("hub.message must be one line without spaces around it")
