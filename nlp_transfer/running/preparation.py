"""Everything up to the first step: encoder, token ids, trainable parameters, objective and plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from nlp_transfer.cache.features import Features, features_of, with_features, with_states
from nlp_transfer.cache.store import store_of
from nlp_transfer.cache.tokens import encode_splits
from nlp_transfer.continual.base import Base
from nlp_transfer.data import tokens as token_ids
from nlp_transfer.data.batches import Columns, Padding
from nlp_transfer.data.corpus import Corpus, Texts
from nlp_transfer.data.label_texts import with_label_texts
from nlp_transfer.data.task import likeliest
from nlp_transfer.data.tokens import TokenSpec
from nlp_transfer.data.unlabelled import NAME
from nlp_transfer.encoder.anatomy import unwrapped
from nlp_transfer.encoder.boundary import layers_around, skip_layers
from nlp_transfer.encoder.classifier import Classifier, load_classifier
from nlp_transfer.encoder.compatibility import min_tokens
from nlp_transfer.encoder.dropout import make_dropout_cheap
from nlp_transfer.encoder.head_transfer import restore_head
from nlp_transfer.encoder.packed import pack_if_wanted, unequal_rows
from nlp_transfer.encoder.source import Source, locate
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.divergence import Gap
from nlp_transfer.evaluation.metrics import selection_metric
from nlp_transfer.objectives.objective import Objective
from nlp_transfer.pretraining.planning import planned_words
from nlp_transfer.running import tracking
from nlp_transfer.running.frozen import boundary_of, frozen_modules, training_splits
from nlp_transfer.running.head_choice import kept_head, kept_words, resolve_encoder
from nlp_transfer.running.plan import Plan, encoder_notes, plan_of
from nlp_transfer.running.resume import check_alike, origin
from nlp_transfer.running.teaching import Taught, teacher_columns, teaching_digest
from nlp_transfer.settings import Settings, TrainingSettings
from nlp_transfer.strategies import Group, Strategy
from nlp_transfer.terminal.console import Screen
from nlp_transfer.terminal.progress import reading
from nlp_transfer.training import inference
from nlp_transfer.training.device import make_accelerator, with_supported_precision
from nlp_transfer.training.memory import checkpoint_activations
from nlp_transfer.training.sharding import check_shardable


@dataclass
class Prepared:
    """The parts of a run, ready to be trained.

    Training changes the model in place, and `corpus` when thresholds are tuned.

    Attributes:
        classifier: the model, after the strategy has changed it, and its tokenizer.
        groups: the trainable parameters with their learning rates.
        columns: by split, the arrays that batches are made of.
        feature_cache: computes and caches the features: what enters the output layer, for every row of a split.
        boundary: the number of frozen bottom layers whose states are computed once, and the qualified name of the layer
            above; None: there are none, or the model cannot start there.
        taught: a teacher's outputs, and the digest of what else is learned from beside the rows.
        domains: distance between unlabelled texts and training rows; None: not measured.
    """

    settings: Settings
    corpus: Corpus
    accelerator: Accelerator
    classifier: Classifier
    strategy: Strategy
    objective: Objective
    groups: list[Group]
    spec: TokenSpec
    columns: dict[str, Columns]
    padding: Padding
    plan: Plan
    feature_cache: Features
    boundary: tuple[int, str] | None
    taught: Taught
    domains: Gap | None = None

    @property
    def frozen_modules(self) -> list[nn.Module]:
        """Modules below the lowest trainable parameter; they run without dropout."""
        return frozen_modules(self.classifier, self.strategy.frozen_depth(self.classifier))

    @property
    def token_ids(self) -> np.ndarray:
        """The distinct token ids of all splits, with the special tokens."""
        special = np.array([*self.classifier.tokenizer.all_special_ids, self.padding.token])
        arrays = [special, *(columns.tokens.ids for columns in self.columns.values())]
        occurs = np.zeros(1 + max(int(ids.max(initial=0)) for ids in arrays), dtype=bool)
        for ids in arrays:
            occurs[ids] = True
        return np.flatnonzero(occurs)

    @property
    def classes(self) -> np.ndarray:
        """The class of each training row, int64 (rows,); of soft labels the likeliest."""
        return likeliest(self.columns["train"].targets)

    def logits(self, columns: Columns) -> np.ndarray:
        """Return the logits of every example, float32 (examples, outputs)."""
        return inference.run(
            self.accelerator,
            self.classifier.model,
            columns,
            padding=self.padding,
            most_tokens=self.settings.evaluation.batch_tokens,
        )

    def training_columns(self) -> Columns:
        """Return the columns of training rows and unlabelled texts, with features if the encoder is frozen."""
        columns = {split: self.columns[split] for split in ("train", NAME) if split in self.columns}
        if self.strategy.frozen:
            columns = {split: with_features(part, self.features(split)) for split, part in columns.items()}
        return columns["train"].with_unlabelled(columns[NAME]) if NAME in columns else columns["train"]

    def outputs(self, split: str) -> np.ndarray:
        """Return the logits of every example of a split; a frozen encoder is not run again for them."""
        columns = self.columns[split]
        return self.logits(with_features(columns, self.features(split)) if self.feature_cache.constant else columns)

    def features(self, split: str) -> np.ndarray:
        """Return what enters the output layer for every example of a split, float32 (examples, width), read-only."""
        return self.feature_cache.of(split, self.columns[split])

    def features_of_rows(self, split: str, rows: np.ndarray) -> np.ndarray:
        """Return the features of some rows of a split, in the order of these indices."""
        columns = self.columns[split]
        if columns.pool is None:
            return self.feature_cache.now(columns.take(rows))
        return self.features(split)[rows]  # from those of the pool, which other runs need as well

    def current_features(self, split: str) -> np.ndarray:
        """Return the features of the encoder as it is now; those of a trained encoder are not cached."""
        return self.features(split) if self.feature_cache.constant else self.feature_cache.uncached(self.columns[split])

    def logits_and_features(self, texts: Texts) -> tuple[np.ndarray, np.ndarray]:
        """Return logits and features of texts that are in no split, tokenised like an evaluation split."""
        spec, tokenizer = self.spec, self.classifier.tokenizer
        tokens = token_ids.encode(tokenizer, texts.texts, texts.pairs, spec, max_length=spec.limit)
        columns = Columns(tokens, np.zeros(len(texts.texts), np.float32), np.ones(len(texts.texts), np.float32))
        features = self.feature_cache.uncached(columns)
        return self.logits(with_features(columns, features)), features

    @contextmanager
    def skipping_frozen_layers(self, screen: Screen) -> Iterator[None]:
        """Compute the states above the frozen bottom layers once, and start the model there within the block."""
        if not self.boundary:
            yield
            return
        depth, name = self.boundary
        whole = self.columns
        with reading(screen, "running the frozen layers once"):
            states = {
                split: self.feature_cache.states(whole[split], layer=name, depth=depth)
                for split in training_splits(whole)
            }
        self.columns = whole | {split: with_states(whole[split], values) for split, values in states.items()}
        below, layer = layers_around(self.classifier.model, self.classifier.anatomy, depth)
        try:
            with skip_layers(below, layer):
                yield
        finally:
            self.columns = whole

    def keep_layer(self, position: int) -> None:
        """From now on feed only one of several concatenated layers of a frozen encoder into the output layer."""
        read = {split: self.columns[split] for split in ("train", self.corpus.reported_split)}
        self.feature_cache.keep_layer(position, read)


def prepare(
    settings: Settings,
    corpus: Corpus,
    folder: Path,
    *,
    tell: Callable[[str], None] = lambda _: None,
    pretrained: Source | None = None,
    taught: Taught | None = None,
) -> Prepared:
    """Load the encoder, tokenise the texts, and apply the strategy and the objective; called on all ranks.

    Args:
        settings: of the run.
        corpus: its data.
        folder: of the run; nothing is written there.
        tell: prints a warning, a sentence.
        pretrained: the encoder after `pretraining`; None: as the settings name it.
        taught: a teacher's outputs for the same rows; None: they are computed, if there is a teacher.

    Raises:
        UserError: for settings that do not fit the data or the encoder, or ranks that were given different runs.
    """
    if settings.data.label_texts:
        corpus = with_label_texts(corpus, settings.data.label_texts)
    _check(settings, corpus)
    if taught is None:  # first, for a teacher sets up an accelerator of its own
        taught = Taught(teacher_columns(settings, corpus), teaching_digest(settings, corpus))
    accelerator = make_accelerator(settings.training.precision, settings.tracking, folder)
    source, precision = pretrained or locate(settings.encoder), str(accelerator.mixed_precision)
    check_alike(origin(settings, corpus, source.weights, precision=precision, lessons=taught.sha256))
    settings, classifier = _load(settings, corpus, source)
    store = store_of(settings.cache, tell)
    columns, spec = encode_splits(settings, corpus, classifier, store)
    columns |= {split: dataclasses.replace(columns[split], **more) for split, more in taught.columns.items()}
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
    places_a_token, padding_words = pack_if_wanted(
        classifier.model,
        classifier.anatomy,
        tokenizer,
        settings.encoder,
        half=accelerator.mixed_precision != "no",
        compiled=settings.training.compile,
    )
    padding = Padding.of(tokenizer, places_a_token=places_a_token, least=min_tokens(unwrapped(classifier.model)))
    feature_cache = features_of(settings, classifier, accelerator, padding, store)
    boundary = boundary_of(settings, classifier, columns, feature_cache) if places_a_token > 1 else None
    if boundary:
        padding_words += f", {boundary[0]} frozen layers run once"
    return Prepared(
        settings=settings,
        corpus=corpus,
        accelerator=accelerator,
        classifier=classifier,
        strategy=settings.strategy,
        objective=objective.to(accelerator.device),
        groups=groups,
        spec=spec,
        columns=columns,
        padding=padding,
        plan=plan_of(settings, corpus, classifier, groups, spec, columns, accelerator, folder, notes, padding_words),
        feature_cache=feature_cache,
        boundary=boundary,
        taught=taught,
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
