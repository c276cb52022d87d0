"""Which settings no meta-learning can use, whatever the data and the encoder are; it imports no torch."""

from __future__ import annotations

import dataclasses

from nlp_transfer.errors import UserError, at_least, one_of, positive
from nlp_transfer.settings import EncoderSettings, Settings, TrainingSettings
from nlp_transfer.strategies import Auto, Finetune

METHODS = ("protonet", "fomaml", "reptile")
DISTANCES = ("cosine", "euclidean")
LEARNS = Finetune(freeze=["classifier.*"], head_first=False)  # all but a head, which nobody asks
# Of the group `training`; an episode is a batch, and how many there are is for the group `meta`.
READ_OF_TRAINING = (
    *("precision", "weight_decay", "betas", "epsilon", "schedule", "warmup", "max_grad_norm", "max_skipped"),
    *("gradient_checkpointing", "keep"),
)
_LEAST = {"ways": 2, "shots": 1, "queries": 1, "episodes": 1, "batch": 1, "inner_steps": 1, "measured": 2}


def check_meta(settings: Settings) -> None:
    """Check the `meta` group by itself, and what other groups ask for that it cannot do.

    Raises:
        UserError: naming the key, its value and what it may be.
    """
    own = settings.meta
    one_of(own.method, METHODS, "meta.method")
    one_of(own.distance, DISTANCES, "meta.distance")
    for key, fewest in _LEAST.items():
        at_least(own, "meta.", fewest, key)
    positive(own, "meta.", "lr", "inner_lr")
    if not 0 < own.held_out < 1:
        raise UserError(f"meta.held_out={own.held_out} must lie between 0 and 1: new classes tell what it was worth")
    if not 0 <= own.validation < 1:
        raise UserError(f"meta.validation={own.validation} must lie in [0, 1); 0: the last weights are kept")
    _check_others(settings)
    _check_encoder(settings.encoder)


def _check_others(settings: Settings) -> None:
    """Refuse what other groups ask for: nothing that was asked for is passed over in silence."""
    if not isinstance(settings.strategy, Auto) and settings.strategy not in (Finetune(), LEARNS):
        raise UserError(
            "meta lets the whole encoder learn at meta.lr: leave strategy out, and adapt what it has made, for "
            "instance with encoder=runs/NAME strategy=lora"
        )
    if terms := set(settings.objective) - {"classify"}:
        raise UserError(f"meta.method={settings.meta.method} is the objective: leave {', '.join(sorted(terms))} out")
    if settings.pretraining.epochs:
        raise UserError(f"pretraining.epochs={settings.pretraining.epochs:g} is no part of meta; set it to 0")
    if settings.continual.used:
        raise UserError("continual goes on from a model of one task, and meta makes an encoder: leave its keys out")
    if settings.data.label_texts is not None:
        raise UserError("data.label_texts is for a run of one task, and meta makes an encoder: leave it out")
    usual = TrainingSettings()
    for key in (field.name for field in dataclasses.fields(usual) if field.name not in READ_OF_TRAINING):
        if (value := getattr(settings.training, key)) != getattr(usual, key):
            raise UserError(
                f"training.{key}={value}: meta would not read it; take it away (of the group it reads "
                f"{', '.join(READ_OF_TRAINING)})"
            )
    if settings.training.precision == "fp16":
        raise UserError("training.precision=fp16 scales losses, which meta does not: take bf16, fp32 or auto")


def _check_encoder(encoder: EncoderSettings) -> None:
    for key, usual in (("head", ("auto", "pooled")), ("layers", ("auto", "last")), ("hidden", (0,))):
        if (value := getattr(encoder, key)) not in usual:
            raise UserError(
                f"encoder.{key}={value}: meta makes an encoder without a head, of which the pooled last layer is "
                "compared; leave it out"
            )
    if encoder.trust_remote_code:
        raise UserError("meta cannot save an encoder that runs code of its own; set encoder.trust_remote_code=false")
