"""Everything up to the first step: encoder, token ids, trainable parameters and objective."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from nlp_transfer.cache.features import features_of
from nlp_transfer.cache.store import store_of
from nlp_transfer.cache.tokens import encode_splits
from nlp_transfer.continual.base import Base
from nlp_transfer.data.batches import Columns, Padding
from nlp_transfer.data.corpus import Corpus
from nlp_transfer.data.label_texts import with_label_texts
from nlp_transfer.encoder.anatomy import unwrapped
from nlp_transfer.encoder.classifier import Classifier, load_classifier
from nlp_transfer.encoder.compatibility import min_tokens
from nlp_transfer.encoder.dropout import make_dropout_cheap
from nlp_transfer.encoder.head_transfer import restore_head
from nlp_transfer.encoder.packed import pack_if_wanted, unequal_rows
from nlp_transfer.encoder.source import Source, locate
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.metrics import selection_metric
from nlp_transfer.objectives.objective import Objective
from nlp_transfer.pretraining.planning import planned_words
from nlp_transfer.running import tracking
from nlp_transfer.running.auxiliary import AuxiliaryData
from nlp_transfer.running.frozen import boundary_of
from nlp_transfer.running.head_choice import kept_head, kept_words, resolve_encoder
from nlp_transfer.running.plan import encoder_notes
from nlp_transfer.running.prepared import Prepared
from nlp_transfer.running.resume import check_alike, origin
from nlp_transfer.settings import Settings, TrainingSettings
from nlp_transfer.strategies import Group, Strategy
from nlp_transfer.training.device import make_accelerator, with_supported_precision
from nlp_transfer.training.memory import checkpoint_activations
from nlp_transfer.training.sharding import check_shardable


def prepare(
    settings: Settings,
    corpus: Corpus,
    folder: Path,
    *,
    tell: Callable[[str], None] = lambda _: None,
    pretrained: Source | None = None,
    auxiliary: AuxiliaryData | None = None,
) -> Prepared:
    """Load the encoder, tokenise the texts, and apply the strategy and the objective; called on all ranks.

    Args:
        settings: of the run.
        corpus: its data.
        folder: of the run; nothing is written there.
        tell: prints a warning, a sentence.
        pretrained: the encoder after `pretraining`; None: as the settings name it.
        auxiliary: a teacher's outputs for the same rows; None: they are computed, if there is a teacher.

    Raises:
        UserError: for settings that do not fit the data or the encoder, or ranks that were given different runs.
    """
    if settings.data.label_texts:
        corpus = with_label_texts(corpus, settings.data.label_texts)
    _check(settings, corpus)
    if auxiliary is None:  # first, for a teacher sets up an accelerator of its own
        auxiliary = AuxiliaryData.of(settings, corpus)
    accelerator = make_accelerator(settings.training.precision, settings.tracking, folder)
    source, precision = pretrained or locate(settings.encoder), str(accelerator.mixed_precision)
    check_alike(origin(settings, corpus, source.weights, precision=precision, auxiliary=auxiliary.sha256))
    settings, classifier = _load(settings, corpus, source)
    store = store_of(settings.cache, tell)
    columns, spec = encode_splits(settings, corpus, classifier, store)
    columns |= {split: dataclasses.replace(columns[split], **more) for split, more in auxiliary.columns.items()}
    notes = [*corpus.notes, *encoder_notes(settings.encoder, classifier), *planned_words(settings, corpus, classifier)]
    notes += kept_words(classifier, corpus)
    objective, groups = _apply_strategy(settings, corpus, classifier, columns["train"], accelerator)
    _save_memory_and_time(classifier.model, settings.training)
    classifier.model.to(accelerator.device)
    tokenizer = classifier.tokenizer
    probe_rows = unequal_rows(classifier.model, tokenizer)
    accelerator, why = with_supported_precision(
        accelerator, classifier.model, probe_rows, settings.training.precision, settings.tracking, folder
    )
    notes += [why] if why else []
    positions_per_token, padding_words = pack_if_wanted(
        classifier.model,
        classifier.anatomy,
        tokenizer,
        settings.encoder,
        half=accelerator.mixed_precision != "no",
        compiled=settings.training.compile,
    )
    padding = Padding.of(
        tokenizer, positions_per_token=positions_per_token, least=min_tokens(unwrapped(classifier.model))
    )
    feature_cache = features_of(settings, classifier, accelerator, padding, store)
    boundary = boundary_of(settings, classifier, columns, feature_cache) if positions_per_token > 1 else None
    if boundary:
        padding_words += f", {boundary[0]} frozen layers run once"
    return Prepared(
        settings=settings,
        corpus=corpus,
        accelerator=accelerator,
        classifier=classifier,
        objective=objective.to(accelerator.device),
        groups=groups,
        spec=spec,
        columns=columns,
        padding=padding,
        padding_words=padding_words,
        feature_cache=feature_cache,
        boundary=boundary,
        auxiliary=auxiliary,
        notes=notes,
    )


def _check(settings: Settings, corpus: Corpus) -> None:
    """Refuse settings that do not fit the data, before an encoder is loaded."""
    selection_metric(corpus.task, settings.evaluation.metric)
    tracking.check(settings.tracking.trackers)
    if settings.training.patience is not None and settings.strategy.trains and "validation" not in corpus.splits:
        raise UserError(
            f"training.patience={settings.training.patience} waits for validation rows, of which there are none: set "
            "data.validation_share above 0, or training.patience=null"
        )


def _load(settings: Settings, corpus: Corpus, source: Source) -> tuple[Settings, Classifier]:
    """Load the classifier; return it with the settings, in which the choice of the head is now resolved."""
    base = Base.of(settings) if settings.continual.keeps_labels else None
    if base:
        encoder = kept_head(settings.encoder, source)
    else:
        encoder = resolve_encoder(settings.encoder, settings.strategy, source, pair=corpus.task.pair)
    classifier = load_classifier(encoder, corpus.task, head=encoder.head, seed=settings.seed, source=source)
    if base:
        classifier = restore_head(classifier, known=len(base.task.labels))
    classifier.max_tokens -= settings.strategy.reserved_tokens
    return dataclasses.replace(settings, encoder=encoder), classifier


def _apply_strategy(
    settings: Settings, corpus: Corpus, classifier: Classifier, train: Columns, accelerator: Accelerator
) -> tuple[Objective, list[Group]]:
    """Let the strategy change the model; return the objective, and the trainable parameters of both.

    There are none if no gradient steps are taken.
    """
    strategy: Strategy = settings.strategy
    set_seed(settings.seed)  # new parameters must be the same on every rank
    strategy.apply(classifier)
    objective = Objective(settings.objective, corpus.task)
    if not strategy.trains:
        return objective, []
    check_shardable(accelerator, settings)
    objective_groups = objective.setup(
        classifier.model,
        seed=settings.seed,
        teacher_width=0 if train.teacher_features is None else train.teacher_features.shape[1],
        fresh=classifier.fresh,
        known=classifier.known,
    )
    return objective, strategy.groups(classifier) + objective_groups


def _save_memory_and_time(model: nn.Module, settings: TrainingSettings) -> None:
    """Replace parts of the model by cheaper ones with the same results."""
    if settings.gradient_checkpointing:
        checkpoint_activations(model)
    if not settings.compile:  # the compiler fuses dropout by itself, and cannot trace ours
        make_dropout_cheap(model)
        if hasattr(model, "peft_config"):
            from nlp_transfer.encoder.lowrank import make_lora_cheap  # imports PEFT

            make_lora_cheap(model)
