"""What a pretraining is asked to do: on which texts, for how many steps, with which architecture; it trains nothing."""

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
    """Texts of a pretraining, each once.

    Attributes:
        read: what is learned from.
        held_out: what tells how much was learned.
        measured: how many were left out because they are rows that the run is measured on.
    """

    read: Texts
    held_out: Texts
    measured: int


def chosen_texts(settings: Settings, corpus: Corpus) -> Chosen:
    """Return the texts that `pretraining.texts` asks for, without those of measured rows; the seed holds some out.

    Raises:
        UserError: where too few are left.
    """
    asked: list[Texts] = []
    if settings.pretraining.texts != "unlabelled":
        asked.append(corpus.splits["train"])
    if settings.pretraining.texts != "train" and corpus.unlabelled is not None:
        asked.append(corpus.unlabelled)
    texts = reduce(Texts.followed_by, asked) if asked else Texts([], None)
    keys = texts.keys
    distinct = keys.firsts() == np.arange(len(keys))
    measured = [rows.keys for split, rows in corpus.splits.items() if split != "train"]
    measured += [others.keys for others in corpus.foreign.values()]
    seen = keys.among(reduce(Keys.followed_by, measured)) if measured else np.zeros(len(keys), bool)
    usable = np.flatnonzero(distinct & ~seen)
    if len(usable) < 2:
        raise UserError(
            f"pretraining.epochs={settings.pretraining.epochs:g}: pretraining.texts={settings.pretraining.texts} has "
            f"{counted(len(usable), 'text')} beside those of measured rows, of which none can be held out"
        )
    random = generator(settings.seed, 0, Stream.HELD_OUT)
    held_out = np.zeros(len(usable), bool)
    held_out[random.permutation(len(usable))[: max(1, round(_HELD_OUT * len(usable)))]] = True
    read, kept = (texts.take(usable[part].tolist()) for part in (~held_out, held_out))
    return Chosen(read, kept, int(distinct.sum()) - len(usable))


def training_of(settings: Settings) -> TrainingSettings:
    """Return how long and in what batches a pretraining is; of the run's own it has what the machine demands alone.

    Its last weights are kept: what the run needs of them is measured later.
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
    """Refuse an encoder that knows no masked words.

    Raises:
        UserError: for an architecture without such a head, one with a decoder too, a model of ours with a pooled head,
            or a tokenizer without a masking token.
    """
    from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoConfig

    from nlp_transfer.encoder.pooled_config import PooledConfig, register_config

    register_config()
    config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False)
    if isinstance(config, PooledConfig):
        why = "its weights lie under a pooled head of ours, where transformers finds no encoder"
    elif config.is_encoder_decoder:
        why = f"{config.model_type!r} has a decoder too, and masked-language modelling here is that of encoders alone"
    elif type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        why = f"{config.model_type!r} is no architecture that transformers has masked-language modelling for"
    elif tokenizer.mask_token_id is None:
        why = "its tokenizer has no token that masks a word"
    else:
        return
    raise UserError(f"encoder.name={source.name!r} cannot be pretrained: {why}; set pretraining.epochs=0")


def planned_words(settings: Settings, corpus: Corpus, classifier: Classifier) -> list[str]:
    """Return what will be done before the run, as a sentence; none where nothing is, or it was done.

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
    less = f"; {counted(texts.measured, 'text')} of measured rows left out" if texts.measured else ""
    return [
        f"pretraining first: {_what(count, settings.pretraining.epochs)}, {counted(steps, 'step')} of "
        f"{batch_size(count, training)}{less}"
    ]


def summary(pretrained: Pretrained) -> str:
    """Return what was done, in a few words."""
    return _what(pretrained.texts, pretrained.epochs)


def outcome_words(pretrained: Pretrained) -> str:
    """Return what was done, and whether anything was learned of such texts, as a sentence."""
    before, after = pretrained.before, pretrained.after
    perplexities = " → ".join(f"{np.exp(min(loss, 700.0)):,.4g}" for loss in (before, after))
    learned = "" if after < before else "; it learned nothing that helps with texts it has not read"
    if pretrained.new_head and not learned:
        learned = "; the head that guesses was new, to which most of this may be due"
    return (
        f"pretraining: {summary(pretrained)}; loss on {counted(pretrained.held_out, 'text')} held out {before:.3f} → "
        f"{after:.3f}, perplexity {perplexities}{learned}"
    )


def _what(texts: int, epochs: float) -> str:
    passes = f"{epochs:g} epoch{'' if epochs == 1 else 's'}"
    return f"masked-language modelling on {counted(texts, 'text')} for {passes}"
