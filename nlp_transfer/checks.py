"""Which settings no run can use, whatever the data and the encoder are: refused before either is read.

It imports no torch and opens no file. What depends on rows or on a model is checked where these are known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from nlp_transfer.continual.checks import check_continual
from nlp_transfer.data import hub
from nlp_transfer.data.cutting import check_tokens
from nlp_transfer.data.files import existing_file, stream_format
from nlp_transfer.data.labels import NAME_HERE, check_problem
from nlp_transfer.data.outputs import check_output
from nlp_transfer.data.sources import check_source
from nlp_transfer.errors import UserError, one_of
from nlp_transfer.evaluation.names import HIGHER_IS_BETTER
from nlp_transfer.inspection.kinds import KINDS, SEVERITIES
from nlp_transfer.machine.launch import world_size
from nlp_transfer.objectives.checks import check_objective
from nlp_transfer.pretraining.checks import check_pretraining
from nlp_transfer.settings import DecisionSettings, EvaluationSettings, Settings, TrainingSettings
from nlp_transfer.training.schedules import SCHEDULES
from nlp_transfer.verb_settings import (
    CheckSettings,
    CompareSettings,
    DemoSettings,
    ExportSettings,
    HubSettings,
    PredictSettings,
    RankSettings,
    ServeSettings,
)

EXPORTS = ("onnx", "onnx_int8", "openvino", "static")
_LIMITS = ("train_limit", "per_class", "validation_limit")


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
    if not settings.checkpoint.seconds >= 0:
        raise UserError(f"checkpoint.seconds={settings.checkpoint.seconds} must be at least 0")
    if not settings.cache.gib >= 0:
        raise UserError(f"cache.gib={settings.cache.gib} must be at least 0")


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
    for key, least in (("batch_size", 1), ("micro_batch_size", 1), ("micro_batch_tokens", 1), ("patience", 1)):
        _at_least(key, getattr(settings, key), least)
    for key in ("min_steps", "weight_decay", "max_grad_norm"):
        _at_least(key, getattr(settings, key), 0)
    _at_least("max_steps", settings.max_steps, 1)
    _at_least("max_skipped", settings.max_skipped, 1)
    for key in ("epochs", "epsilon", "evaluate_every"):
        if getattr(settings, key) is not None and not getattr(settings, key) > 0:
            raise UserError(f"training.{key}={getattr(settings, key)} must be positive")
    for key in ("warmup", "ema"):
        if not 0 <= getattr(settings, key) < 1:
            raise UserError(f"training.{key}={getattr(settings, key)} must lie in [0, 1)")
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
    for key in ("resamples", "batch_tokens"):
        if getattr(settings, key) < 1:
            raise UserError(f"evaluation.{key}={getattr(settings, key)} must be at least 1")


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


def check_predict(settings: PredictSettings, *, overwrite: bool = False) -> None:
    """Check the values of the `predict` group, before a model is loaded.

    Args:
        settings: the group.
        overwrite: whether an output that is there already may be replaced.

    Raises:
        UserError: naming the key, its value and what it may be, the input that is not there, or the output that is.
    """
    if settings.chunk_rows < 1:
        raise UserError(f"predict.chunk_rows={settings.chunk_rows} must be at least 1")
    kind = stream_format(settings.input, settings.format)
    if settings.input != "-":
        existing_file(settings.input)
    elif kind == "parquet":
        raise UserError("a Parquet file is not read in order: name it instead of standard input")
    elif world_size() > 1:
        raise UserError("standard input cannot be read by several processes: name a file, or start one process")
    if settings.output == "-" and kind == "parquet":
        raise UserError("Parquet is no text for standard output: set predict.output=FILE.parquet")
    if settings.output != "-":
        check_output(settings, kind, overwrite=overwrite)


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


def check_serve(settings: ServeSettings) -> None:
    """Check the values of the `serve` group, before a model is loaded.

    Raises:
        UserError: naming the key, its value and what it may be.
    """
    _check_host("serve", settings)
    if settings.queue < settings.texts:
        raise UserError(
            f"serve.queue={settings.queue} is less than serve.texts={settings.texts}: the largest request would never "
            "be taken; raise the one or lower the other"
        )
    if not 0 < settings.seconds < math.inf:
        raise UserError(f"serve.seconds={settings.seconds} must be positive")
    if not 0 <= settings.wait_ms < 1000 * settings.seconds:
        raise UserError(f"serve.wait_ms={settings.wait_ms} must be at least 0 and less than serve.seconds")


def check_demo(settings: DemoSettings) -> None:
    """Check the values of the `demo` group, before a model is loaded.

    Raises:
        UserError: naming the key, its value and what it may be.
    """
    _check_host("demo", settings)
    if settings.effort < 1:
        raise UserError(f"demo.effort={settings.effort} must be at least 1")


def check_export(settings: ExportSettings) -> None:
    """Check the values of the `export` group, before a model is loaded.

    Raises:
        UserError: naming the key, its value and what it may be.
    """
    one_of(settings.format, EXPORTS, "export.format")
    for key in ("rows", "threads"):
        value = getattr(settings, key)
        if value is not None and value < 1:
            raise UserError(f"export.{key}={value} must be at least 1")


def check_examination(settings: Settings, words: Sequence[str]) -> None:
    """Check the values of the `check` group, and that nobody types that rows are left out; a recipe may say so.

    Raises:
        UserError: naming the key, its value and what it may be.
    """
    own: CheckSettings = settings.check
    one_of(own.fail_on, (*SEVERITIES, "never"), "check.fail_on")
    for kind in own.skip:
        one_of(kind, KINDS, "check.skip")
    for word in typed_limits(words):
        raise UserError(f"{word}: check looks at every row; leave it out")


def typed_limits(words: Sequence[str]) -> list[str]:
    """Return the words that leave rows out."""
    given = {word: word.lstrip("+").partition("=") for word in words}
    return [word for word, (key, _, value) in given.items() if key.removeprefix("data.") in _LIMITS and value != "null"]


def check_ranking(settings: RankSettings) -> None:
    """Check the values of the `rank` group.

    Raises:
        UserError: naming the key, its value and what it may be.
    """
    if settings.rows is not None and settings.rows < 10:
        raise UserError(f"rank.rows={settings.rows} must be at least 10")


def check_comparison(settings: Settings) -> None:
    """Check the values of the `compare` group, and that nothing else says which rows there are.

    Raises:
        UserError: naming the key, its value and what it may be.
    """
    own: CompareSettings = settings.compare
    if settings.continual.used:
        raise UserError(
            "continual goes on from one model, and a comparison makes many: leave its keys out, or use adapt"
        )
    for key in _LIMITS:
        if (value := getattr(settings.data, key)) is not None:
            raise UserError(f"data.{key}={value}: in a comparison compare.labels says how many rows there are")
    if not own.labels:
        raise UserError("compare.labels is empty; give numbers of training rows a class, or all")
    for labels in own.labels:
        if labels != "all" and (not labels.isdecimal() or int(labels) < 1):
            raise UserError(f"compare.labels: {labels!r} must be a whole number from 1 up, or all")
    if own.seeds < 1:
        raise UserError(f"compare.seeds={own.seeds} must be at least 1")
    if settings.seed + own.seeds > 2**32:
        raise UserError(f"seed={settings.seed} and compare.seeds={own.seeds} must stay below 2**32 together")
    if own.minutes is not None and not own.minutes > 0:
        raise UserError(f"compare.minutes={own.minutes} must be above 0")


def _check_host(verb: str, settings: ServeSettings | DemoSettings) -> None:
    """Check an address to listen at, and how much may come there."""
    if not settings.host.strip():
        raise UserError(f"{verb}.host is empty; it takes an address of this machine, such as 127.0.0.1")
    if not 0 <= settings.port < 2**16:
        raise UserError(f"{verb}.port={settings.port} must lie between 0 and 65535")
    for key in ("texts", "characters", "bytes"):
        if getattr(settings, key) < 1:
            raise UserError(f"{verb}.{key}={getattr(settings, key)} must be at least 1")


def _at_least(key: str, value: float | None, least: float) -> None:
    if value is not None and not value >= least:
        raise UserError(f"training.{key}={value} must be at least {least}")
