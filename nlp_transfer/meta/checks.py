"""Checks of the settings for meta-learning that need no data or encoder; this module imports no torch."""

from __future__ import annotations

import dataclasses

from nlp_transfer.errors import UserError, at_least, one_of, positive
from nlp_transfer.settings import EncoderSettings, Settings, TrainingSettings
from nlp_transfer.strategies import Auto, Finetune

METHODS = ("protonet", "fomaml", "reptile")
DISTANCES = ("cosine", "euclidean")
LEARNS = Finetune(freeze=["classifier.*"], head_first=False)  # all parameters except the head, which is not used
# The keys of `training` that meta-learning uses; the number and size of batches is determined by the group `meta`.
READ_OF_TRAINING = (
    *("precision", "weight_decay", "betas", "epsilon", "schedule", "warmup", "max_grad_norm", "max_skipped"),
    *("gradient_checkpointing", "keep"),
)
_MINIMUM = {"ways": 2, "shots": 1, "queries": 1, "episodes": 1, "batch": 1, "inner_steps": 1, "measured": 2}


def check_meta(settings: Settings) -> None:
    """Check the `meta` group, and that other groups set nothing that meta-learning does not support.

    Raises:
        UserError: naming the key, its value and the allowed values.
    """
    own = settings.meta
    one_of(own.method, METHODS, "meta.method")
    one_of(own.distance, DISTANCES, "meta.distance")
    for key, minimum in _MINIMUM.items():
        at_least(own, "meta.", minimum, key)
    positive(own, "meta.", "lr", "inner_lr")
    if not 0 < own.held_out < 1:
        raise UserError(f"meta.held_out={own.held_out} must lie between 0 and 1: the evaluation needs new classes")
    if not 0 <= own.validation < 1:
        raise UserError(f"meta.validation={own.validation} must lie in [0, 1); 0: the last weights are kept")
    _check_others(settings)
    _check_encoder(settings.encoder)


def _check_others(settings: Settings) -> None:
    """Refuse settings of other groups that meta-learning would ignore."""
    if not isinstance(settings.strategy, Auto) and settings.strategy not in (Finetune(), LEARNS):
        raise UserError(
            "meta trains the whole encoder at meta.lr: leave strategy out, and adapt the resulting encoder, for "
            "instance with encoder=runs/NAME strategy=lora"
        )
    if terms := set(settings.objective) - {"classify"}:
        raise UserError(f"meta.method={settings.meta.method} is the objective: leave {', '.join(sorted(terms))} out")
    if settings.pretraining.epochs:
        raise UserError(f"pretraining.epochs={settings.pretraining.epochs:g} is not supported by meta; set it to 0")
    if settings.continual.used:
        raise UserError("continual is for a model of one task, and meta makes an encoder: leave its keys out")
    if settings.data.label_texts is not None:
        raise UserError("data.label_texts is for a run of one task, and meta makes an encoder: leave it out")
    default = TrainingSettings()
    for key in (field.name for field in dataclasses.fields(default) if field.name not in READ_OF_TRAINING):
        if (value := getattr(settings.training, key)) != getattr(default, key):
            raise UserError(
                f"training.{key}={value}: meta does not use this key; remove it (of this group it uses "
                f"{', '.join(READ_OF_TRAINING)})"
            )
    if settings.training.precision == "fp16":
        raise UserError("training.precision=fp16 needs loss scaling, which meta lacks: use bf16, fp32 or auto")


def _check_encoder(encoder: EncoderSettings) -> None:
    for key, allowed in (("head", ("auto", "pooled")), ("layers", ("auto", "last")), ("hidden", (0,))):
        if (value := getattr(encoder, key)) not in allowed:
            raise UserError(
                f"encoder.{key}={value}: meta makes an encoder without a head and compares its pooled last layer; "
                "leave the key out"
            )
    if encoder.trust_remote_code:
        raise UserError("meta cannot save an encoder that runs code of its own; set encoder.trust_remote_code=false")
