"""Whether an objective can be learned: by this strategy, in these steps, from these rows; it imports no torch."""

from __future__ import annotations

from nlp_transfer.errors import UserError
from nlp_transfer.objectives.settings import compares, reads_unlabelled
from nlp_transfer.settings import Settings

FEWEST_COMPARED = 4  # texts among which there is something to compare


def check_objective(settings: Settings) -> None:
    """Check every term, that something teaches what learns, and that texts can meet where they are compared.

    Raises:
        UserError: naming the key, its value and what it may be.
    """
    strategy, training = settings.strategy, settings.training
    for term in settings.objective.values():
        term.check()
    supervised = settings.objective.get("classify")
    if supervised is None:
        raise UserError("objective.classify is missing: it says what the head is fitted to; its weight may be 0")
    if compares(settings.objective):
        if strategy.frozen:
            raise UserError("objective.contrast moves the encoder, which strategy=probe leaves as it is; take another")
        if training.batch_size < FEWEST_COMPARED:
            raise UserError(
                f"training.batch_size={training.batch_size} must be at least {FEWEST_COMPARED} for objective.contrast, "
                "which compares the texts of a step"
            )
    distilled = settings.objective.get("distill")
    distils = distilled is not None and distilled.weight > 0
    if distils and not strategy.trains:
        raise UserError(
            "objective.distill is learned by gradient steps, and an exact probe takes none: take another strategy, or "
            "strategy.solver=adamw"
        )
    if settings.data.unlabelled is not None and not (
        reads_unlabelled(settings.objective) or settings.pretraining.reads_unlabelled
    ):
        raise UserError(
            "data.unlabelled is not read by this objective: take objective=distill or pretraining.epochs=10, or leave "
            "it out"
        )
    if not strategy.trains or supervised.weight or distils:
        return
    zero = "objective.classify.weight=0"
    if not any(term.weight for term in settings.objective.values()):
        raise UserError(f"{zero}: there is nothing to learn; give it, or another term, a weight")
    if not strategy.head_last:
        raise UserError(f"{zero}: no step would teach the head; set strategy.head_last=true, or give it a weight")
    if training.keep == "best" or training.patience is not None:
        raise UserError(
            f"{zero}: before the head is fitted last, no step is known to be better than another; set "
            "training.keep=last training.patience=null"
        )
