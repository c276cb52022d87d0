"""Checks that an objective suits strategy, training and data; imports no torch."""

from __future__ import annotations

from nlp_transfer.errors import UserError
from nlp_transfer.objectives.settings import terms_that
from nlp_transfer.settings import Settings

FEWEST_COMPARED = 4  # least texts of a batch if a term compares them with each other


def check_objective(settings: Settings) -> None:
    """Check every term, and that their combination suits the other settings.

    Raises:
        UserError: naming the key, its value and what it may be.
    """
    strategy, training = settings.strategy, settings.training
    for term in settings.objective.values():
        term.check()
    supervised = settings.objective.get("classify")
    if supervised is None:
        raise UserError("objective.classify is missing: it defines the targets of the head; its weight may be 0")
    if (names := terms_that("taught", settings.objective)) and "distill" not in settings.objective:
        raise UserError(f"objective.{names[0]} needs a teacher: name its folder with +objective.distill.teacher=...")
    _check_encoder_moves(settings)
    _check_anchor(settings)
    distilled = settings.objective.get("distill")
    distils = distilled is not None and distilled.weight > 0
    if terms_that("taught", settings.objective) and distilled.teacher is None and not settings.continual.keeps_labels:
        raise UserError("objective.distill.teacher must name the folder of a run or of its model")
    if distils and not strategy.trains:
        raise UserError(
            "objective.distill needs gradient steps, and an exact probe takes none: choose another strategy, or "
            "strategy.solver=adamw"
        )
    if settings.data.unlabelled is not None and not settings.reads_unlabelled:
        raise UserError(
            "data.unlabelled is not read by this objective: take objective=distill, one that adapts to the domain of "
            "these texts, such as objective=cdan, or pretraining.epochs=10, or leave it out"
        )
    if not strategy.trains or supervised.weight or distils:
        return
    zero = "objective.classify.weight=0"
    if not any(term.weight and not term.holds for term in settings.objective.values()):
        raise UserError(f"{zero}: there is nothing to learn; give it, or another term, a weight")
    if not strategy.head_last:
        raise UserError(f"{zero}: no step would teach the head; set strategy.head_last=true, or give it a weight")
    if training.keep == "best" or training.patience is not None:
        raise UserError(
            f"{zero}: before the head is fitted last, no step is known to be better than another; set "
            "training.keep=last training.patience=null"
        )


def _check_encoder_moves(settings: Settings) -> None:
    """Check what terms need that move the encoder: one that learns, texts to compare, and another domain."""
    objective = settings.objective
    if settings.strategy.frozen and (names := terms_that("moves", objective)):
        raise UserError(
            f"objective.{names[0]} trains the encoder, which strategy=probe freezes; choose another strategy"
        )
    for name in terms_that("compares", objective):
        for key in ("batch_size", "micro_batch_size"):
            texts = getattr(settings.training, key)
            if texts is not None and texts < FEWEST_COMPARED:
                raise UserError(
                    f"training.{key}={texts} must be at least {FEWEST_COMPARED} for objective.{name}, which compares "
                    "the texts of a step"
                )
    if aligned := terms_that("aligns", objective):
        _check_domains(settings, aligned[0])


def _check_anchor(settings: Settings) -> None:
    """Check that pretrained weights are trained and, for EWC, that there are rows to estimate their importance."""
    anchor, strategy = settings.objective.get("anchor"), settings.strategy
    if anchor is None or not anchor.weight:
        return
    if strategy.frozen or strategy.adapts:
        raise UserError(
            "objective.anchor keeps the encoder close to its pretrained weights, which this strategy does not change: "
            "choose strategy=finetune, or leave the term out"
        )
    if not settings.encoder.pretrained or strategy.reinit_layers:
        key = "strategy.reinit_layers" if settings.encoder.pretrained else "encoder.pretrained=false"
        raise UserError(f"objective.anchor keeps pretrained weights, which {key} discards: use one of them")
    if anchor.kind == "ewc" and not (settings.continual.replay and settings.continual.keeps_labels):
        raise UserError(
            "objective.anchor.kind=ewc needs rows of earlier labels to estimate how important each weight is: set "
            "continual.labels=all and continual.replay, or kind=l2sp"
        )


def _check_domains(settings: Settings, name: str) -> None:
    """Check that there are two domains, and another term that keeps all features from becoming the same."""
    if settings.data.unlabelled is None:
        raise UserError(
            f"objective.{name} adapts to the domain of texts without labels, and there are none: name their file with "
            "data.unlabelled=..."
        )
    if not any(term.weight for term in settings.objective.values() if not (term.aligns or term.holds)):
        raise UserError(
            f"objective.{name} alone is minimal if all texts have the same features: set objective.classify.weight "
            "above 0, or add a term that separates classes"
        )
