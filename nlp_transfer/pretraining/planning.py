"""Plan a further pretraining: its texts, its number of steps, and whether the architecture supports it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from nlp_transfer.data.corpus import Corpus
from nlp_transfer.data.keys import Keys
from nlp_transfer.data.rows import Texts
from nlp_transfer.data.streams import Stream, generator
from nlp_transfer.encoder.pretrained import Pretrained
from nlp_transfer.encoder.source import Source
from nlp_transfer.errors import UserError
from nlp_transfer.settings import Settings, TrainingSettings
from nlp_transfer.training.length import batch_size, planned_steps
from nlp_transfer.wording import counted

if TYPE_CHECKING:
    from nlp_transfer.encoder.classifier import Classifier

_HELD_OUT = 0.05  # of the texts, at least one


@dataclass(frozen=True)
class Chosen:
    """The distinct texts of a pretraining.

    Attributes:
        read: texts to train on.
        held_out: texts to evaluate on.
        measured: how many texts were left out because they occur in rows on which the run is evaluated.
    """

    read: Texts
    held_out: Texts
    measured: int


def chosen_texts(settings: Settings, corpus: Corpus) -> Chosen:
    """Return the texts of `pretraining.texts`, without those of measured rows; some are held out, by the seed.

    Raises:
        UserError: if too few are left.
    """
    sources: list[Texts] = []
    if settings.pretraining.texts != "unlabelled":
        sources.append(corpus.splits["train"])
    if settings.pretraining.texts != "train" and corpus.unlabelled is not None:
        sources.append(corpus.unlabelled)
    texts = reduce(Texts.followed_by, sources) if sources else Texts([], None)
    keys = texts.keys
    distinct = keys.firsts() == np.arange(len(keys))
    measured = [rows.keys for split, rows in corpus.splits.items() if split != "train"]
    measured += [others.keys for others in corpus.foreign.values()]
    is_measured = keys.among(reduce(Keys.followed_by, measured)) if measured else np.zeros(len(keys), bool)
    usable = np.flatnonzero(distinct & ~is_measured)
    if len(usable) < 2:
        raise UserError(
            f"pretraining.epochs={settings.pretraining.epochs:g}: pretraining.texts={settings.pretraining.texts} has "
            f"{counted(len(usable), 'text')} besides those of measured rows, too few to hold one out"
        )
    random = generator(settings.seed, 0, Stream.HELD_OUT)
    held_out = np.zeros(len(usable), bool)
    held_out[random.permutation(len(usable))[: max(1, round(_HELD_OUT * len(usable)))]] = True
    read, evaluated = (texts.take(usable[part].tolist()) for part in (~held_out, held_out))
    return Chosen(read, evaluated, int(distinct.sum()) - len(usable))


def training_of(settings: Settings) -> TrainingSettings:
    """Return the training settings of a pretraining, which has only those for memory and speed in common with the run.

    The last weights are kept, because the encoder is evaluated on the task only later.
    """
    own, machine = settings.pretraining, settings.training
    return TrainingSettings(
        epochs=own.epochs,
        batch_size=own.batch_size,
        keep="last",
        micro_batch_size=machine.micro_batch_size,
        micro_batch_tokens=machine.micro_batch_tokens,
        max_skipped=machine.max_skipped,
        precision=machine.precision,
        gradient_checkpointing=machine.gradient_checkpointing,
    )


def check_architecture(source: Source, tokenizer: Any) -> None:
    """Check that an encoder supports masked-language modelling.

    Raises:
        UserError: for an architecture without such a head or with a decoder, a model of ours with a pooled head, or a
            tokenizer without a mask token.
    """
    from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoConfig

    from nlp_transfer.encoder.pooled_config import PooledConfig, register_config

    register_config()
    config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False)
    if isinstance(config, PooledConfig):
        reason = "it is a model with our pooled head, which transformers cannot load for this"
    elif config.is_encoder_decoder:
        reason = f"{config.model_type!r} has a decoder, and only encoders are supported"
    elif type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        reason = f"transformers has no masked-language modelling for {config.model_type!r}"
    elif tokenizer.mask_token_id is None:
        reason = "its tokenizer has no mask token"
    else:
        return
    raise UserError(f"encoder.name={source.name!r} cannot be pretrained: {reason}; set pretraining.epochs=0")


def planned_words(settings: Settings, corpus: Corpus, classifier: Classifier) -> list[str]:
    """Return a sentence about the pretraining before the run, or nothing if there is none or it was already done.

    Raises:
        UserError: see `chosen_texts` and `check_architecture`.
    """
    source = classifier.source
    if not settings.pretraining.epochs or source.pretrained:
        return []
    check_architecture(source, classifier.tokenizer)
    texts, training = chosen_texts(settings, corpus), training_of(settings)
    count = len(texts.read.texts)
    steps = planned_steps(count, training)
    left_out = f"; {counted(texts.measured, 'text')} of measured rows left out" if texts.measured else ""
    return [
        f"pretraining first: {_description(count, settings.pretraining.epochs)}, {counted(steps, 'step')} of "
        f"{batch_size(count, training)}{left_out}"
    ]


def summary(pretrained: Pretrained) -> str:
    """Return a short description of a pretraining."""
    return _description(pretrained.texts, pretrained.epochs)


def outcome_words(pretrained: Pretrained) -> str:
    """Return a sentence about a pretraining and its effect on held-out texts."""
    before, after = pretrained.before, pretrained.after
    perplexities = " → ".join(f"{np.exp(min(loss, 700.0)):,.4g}" for loss in (before, after))
    remark = "" if after < before else "; it did not improve on held-out texts"
    if pretrained.new_head and not remark:
        remark = "; the head was new, which may explain most of this"
    return (
        f"pretraining: {summary(pretrained)}; loss on {counted(pretrained.held_out, 'text')} held out {before:.3f} → "
        f"{after:.3f}, perplexity {perplexities}{remark}"
    )


def _description(texts: int, epochs: float) -> str:
    passes = f"{epochs:g} epoch{'' if epochs == 1 else 's'}"
    return f"masked-language modelling on {counted(texts, 'text')} for {passes}"
