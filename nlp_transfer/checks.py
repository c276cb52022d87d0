"""Which settings no run can use, whatever the data and the encoder are: refused before either is read.

It imports no torch and opens no file. What depends on rows or on a model is checked where these are known.
"""

from __future__ import annotations

import re
from typing import Any

from nlp_transfer.continual.checks import check_continual
from nlp_transfer.data import hub
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


def check(settings: Settings, *, data: Any = None) -> None:
    """Check the settings of a run.

    Args:
        settings: see ``config.compose``.
        data: rows from Python, see ``sources.read_source``.

    Raises:
        UserError: naming the key, its value and what it may be.
    """
    if not 0 <= settings.seed < 2**32:
        raise UserError(f"seed={settings.seed} must lie between 0 and 2**32 - 1")
    if settings.name and (settings.name in (".", "..") or set(settings.name) & {"/", "\\"}):
        raise UserError(f"name={settings.name} is the name of a folder below output, not a path; set output=...")
    check_source(settings.data, data=data)
    check_problem(settings.data.problem, settings.data.label_separator)
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
    """Check the sentences that are made of the names of labels.

    Raises:
        UserError: for one in which the name has no place, and where rows behind the training rows mean something else.
    """
    for form in settings.data.label_texts or ():
        if form.count(NAME_HERE) != 1:
            raise UserError(
                f"data.label_texts: {form!r} must have {NAME_HERE} once, where the name of the label stands"
            )
    if settings.data.label_texts and settings.continual.used:
        raise UserError(
            "data.label_texts is for a run that keeps nothing of an earlier one: set it to null, or leave out "
            "continual.labels and continual.replay"
        )


def check_strategy(settings: Settings) -> None:
    """Check a strategy by itself, and beside what else hangs on it.

    Raises:
        UserError: naming the key, its value and what it may be.
    """
    strategy = settings.strategy
    strategy.check()
    if not settings.encoder.pretrained and strategy.adapts:
        raise UserError(
            "encoder.pretrained=false leaves nothing for an adapter to be put on; use strategy=finetune, or probe"
        )
    if settings.encoder.depth == 0 and strategy.adapts:
        raise UserError("encoder.depth=0 leaves no layer for an adapter to be put on; use strategy=finetune, or probe")
    if settings.hub.push and settings.hub.layout == "adapter" and not strategy.adapts:
        raise UserError("hub.layout=adapter needs a strategy that makes an adapter: strategy=lora or strategy=adapter")
    check_objective(settings)


def check_training(settings: TrainingSettings) -> None:
    """Check every value that has a range or a list of choices.

    Raises:
        UserError: naming the key, its value and what it may be.
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
    """Check the values of the `evaluation` group, before a training whose figures they would spoil.

    Whether the metric is one of the task's is known with the data.

    Raises:
        UserError: naming the key, its value and what it may be.
    """
    one_of(settings.metric, ("auto", *HIGHER_IS_BETTER), "evaluation.metric")
    if not 0 < settings.confidence < 1:
        raise UserError(f"evaluation.confidence={settings.confidence} must lie between 0 and 1")
    at_least(settings, "evaluation.", 1, "resamples", "batch_tokens")


def check_decision(settings: DecisionSettings) -> None:
    """Check the values of the `decision` group. Whether they suit the problem type is known with the data.

    Raises:
        UserError: naming the key, its value and what it may be.
    """
    if settings.threshold is not None and not 0 < settings.threshold < 1:
        raise UserError(f"decision.threshold={settings.threshold} must lie between 0 and 1")
    if settings.abstain_below is not None and not 0 <= settings.abstain_below < 1:
        raise UserError(f"decision.abstain_below={settings.abstain_below} must lie in [0, 1); 0: never")
    if settings.risk is not None and not 0 <= settings.risk < 1:
        raise UserError(f"decision.risk={settings.risk} must lie in [0, 1); 0: nothing is promised")
    check_one_rule(settings)
    if settings.unknown is not None and not 0 <= settings.unknown <= 0.5:
        raise UserError(f"decision.unknown={settings.unknown} must lie in [0, 0.5]; 0: nothing is called unknown")
    if settings.coverage is not None and not 0 <= settings.coverage < 1:
        raise UserError(f"decision.coverage={settings.coverage} must lie in [0, 1); 0: no sets")


def check_one_rule(settings: DecisionSettings) -> None:
    """Refuse two rules for where a model abstains.

    Raises:
        UserError: naming both.
    """
    least, risk = settings.abstain_below, settings.risk
    if risk and least is not None:
        raise UserError(
            f"decision.abstain_below={least:g} and decision.risk={risk:g} both say where the model abstains: give one "
            "of them, the other null"
        )


def check_hub(settings: HubSettings) -> None:
    """Check the values of the `hub` group, where something is going to be pushed.

    Raises:
        UserError: naming the key, its value and what it may be.
    """
    one_of(settings.layout, ("merged", "adapter"), "hub.layout")
    if settings.repository is None:
        raise UserError("hub.repository is not set: name the repository to push to, hub.repository=owner/name")
    if not hub.is_name(settings.repository):
        raise UserError(f"hub.repository={settings.repository} is no name of a repository: owner/name")
    if settings.revision is not None and not re.fullmatch(r"(?!refs/)\w[\w./-]{0,200}", settings.revision):
        raise UserError(
            f"hub.revision={settings.revision} is no name of a branch; hub.create_pr=true makes a pull request"
        )
    if settings.message is not None and (settings.message != settings.message.strip() or "\n" in settings.message):
        raise UserError("hub.message is one line without spaces around it")
