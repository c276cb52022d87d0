"""Everything up to the first step: data, encoder, token ids, what learns, and the plan that says so."""

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
from nlp_transfer.running.frozen import boundary_of, frozen_modules, read_while_learning
from nlp_transfer.running.head_choice import kept_head, kept_words, resolve_encoder
from nlp_transfer.running.plan import Plan, encoder_notes, plan_of
from nlp_transfer.running.resume import check_alike, origin
from nlp_transfer.running.teaching import Taught, lessons, taught_columns
from nlp_transfer.settings import Settings, TrainingSettings
from nlp_transfer.strategies import Group, Strategy
from nlp_transfer.terminal.console import Screen
from nlp_transfer.terminal.progress import reading
from nlp_transfer.training import inference
from nlp_transfer.training.device import fitting, make_accelerator
from nlp_transfer.training.memory import checkpoint_activations
from nlp_transfer.training.sharding import check_shareable


@dataclass
class Prepared:
    """The parts of a run, put together and not yet trained.

    Attributes:
        classifier: the model, with what the strategy has put into it, and its tokenizer.
        groups: the parameters that learn, with their rates.
        columns: by split, what batches are made of.
        below_output: what enters the output layer, for every row of a split.
        boundary: how many of the lowest layers nothing learns in, and the qualified name of the first one above; None:
            there are none, or the model cannot be entered there.
        taught: what is learned from beside the rows.
        domains: how far texts of another domain are from the training rows; None: nobody asked.
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
    below_output: Features
    boundary: tuple[int, str] | None
    taught: Taught
    domains: Gap | None = None

    @property
    def frozen_modules(self) -> list[nn.Module]:
        """Modules below the depth at which anything learns; they run without dropout."""
        return frozen_modules(self.classifier, self.strategy.frozen_depth(self.classifier))

    @property
    def words(self) -> np.ndarray:
        """Token ids that the model may be given, each once: those of all splits, special ones among them."""
        special = np.array([*self.classifier.tokenizer.all_special_ids, self.padding.token])
        every = [special, *(columns.tokens.ids for columns in self.columns.values())]
        occurs = np.zeros(1 + max(int(ids.max(initial=0)) for ids in every), dtype=bool)
        for ids in every:
            occurs[ids] = True
        return np.flatnonzero(occurs)

    @property
    def kinds(self) -> np.ndarray:
        """The label of each training row, int64 (rows,); of soft labels the likeliest."""
        return likeliest(self.columns["train"].targets)

    def logits(self, columns: Columns) -> np.ndarray:
        """Return the model's raw outputs for every example, float32 (examples, outputs)."""
        return inference.run(
            self.accelerator,
            self.classifier.model,
            columns,
            padding=self.padding,
            most_tokens=self.settings.evaluation.batch_tokens,
        )

    def training_columns(self) -> Columns:
        """Return the columns of what is learned from, with the features where the output layer alone learns."""
        found = {split: self.columns[split] for split in ("train", NAME) if split in self.columns}
        if self.strategy.frozen:
            found = {split: with_features(columns, self.features(split)) for split, columns in found.items()}
        return found["train"].with_unlabelled(found[NAME]) if NAME in found else found["train"]

    def outputs(self, split: str) -> np.ndarray:
        """Return the model's raw outputs for every example of a split; a frozen encoder does not run again for that."""
        columns = self.columns[split]
        return self.logits(with_features(columns, self.features(split)) if self.below_output.constant else columns)

    def features(self, split: str) -> np.ndarray:
        """Return what enters the output layer for every example of a split, float32 (examples, width), read-only."""
        return self.below_output.of(split, self.columns[split])

    def features_now(self, split: str) -> np.ndarray:
        """Return the same as `features`, but of an encoder that was trained it is not kept for later runs."""
        return self.features(split) if self.below_output.constant else self.below_output.uncached(self.columns[split])

    def answers_to(self, texts: Texts) -> tuple[np.ndarray, np.ndarray]:
        """Return the logits and the features of texts that are in no split, in the tokens of a split to be measured."""
        spec, tokenizer = self.spec, self.classifier.tokenizer
        tokens = token_ids.encode(tokenizer, texts.texts, texts.pairs, spec, max_length=spec.limit)
        columns = Columns(tokens, np.zeros(len(texts.texts), np.float32), np.ones(len(texts.texts), np.float32))
        features = self.below_output.uncached(columns)
        return self.logits(with_features(columns, features)), features

    @contextmanager
    def frozen_layers_skipped(self, screen: Screen) -> Iterator[None]:
        """Do not run in the block what is frozen below the first layer that learns: its states are computed once."""
        if not self.boundary:
            yield
            return
        depth, name = self.boundary
        before = self.columns
        with reading(screen, "running the frozen layers once"):
            states = {
                split: self.below_output.states(before[split], layer=name, depth=depth)
                for split in read_while_learning(before)
            }
        self.columns = before | {split: with_states(before[split], found) for split, found in states.items()}
        below, layer = layers_around(self.classifier.model, self.classifier.anatomy, depth)
        try:
            with skip_layers(below, layer):
                yield
        finally:
            self.columns = before

    def keep_layer(self, position: int) -> None:
        """Let the output layer of a frozen encoder read one of several concatenated layers from now on."""
        read = {split: self.columns[split] for split in ("train", self.corpus.reported_split)}
        self.below_output.keep_layer(position, read)


def prepare(
    settings: Settings,
    corpus: Corpus,
    folder: Path,
    *,
    tell: Callable[[str], None] = lambda _: None,
    pretrained: Source | None = None,
    taught: Taught | None = None,
) -> Prepared:
    """Load the encoder, encode the texts, and let the strategy and the objective do their part, in all processes.

    Args:
        settings: of the run.
        corpus: its data.
        folder: of the run; nothing is written there.
        tell: is told what one must know later on, in a sentence.
        pretrained: the encoder after its `pretraining`; None: as the settings name it.
        taught: what is learned from beside the same rows; None: the teacher is asked, where there is one.

    Raises:
        UserError: for settings that do not fit the data or the encoder, and processes that were given different runs.
    """
    if settings.data.label_texts:
        corpus = with_label_texts(corpus, settings.data.label_texts)
    _check(settings, corpus)
    if taught is None:  # by a process state of its own, which must not follow this one's
        taught = Taught(taught_columns(settings, corpus), lessons(settings, corpus))
    accelerator = make_accelerator(settings.training.precision, settings.tracking, folder)
    source, chosen = pretrained or locate(settings.encoder), str(accelerator.mixed_precision)
    check_alike(origin(settings, corpus, source.weights, precision=chosen, lessons=taught.sha256))
    settings, classifier = _loaded(settings, corpus, source)
    store = store_of(settings.cache, tell)
    columns, spec = encode_splits(settings, corpus, classifier, store)
    columns |= {split: dataclasses.replace(columns[split], **told) for split, told in taught.columns.items()}
    notes = [*corpus.notes, *encoder_notes(settings.encoder, classifier), *planned_words(settings, corpus, classifier)]
    notes += kept_words(classifier, corpus)
    objective, groups = _what_learns(settings, corpus, classifier, columns["train"], accelerator)
    _make_cheap(classifier.model, settings.training)
    classifier.model.to(accelerator.device)
    tokenizer = classifier.tokenizer
    rows = unequal_rows(classifier.model, tokenizer)
    accelerator, why = fitting(
        accelerator, classifier.model, rows, settings.training.precision, settings.tracking, folder
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
    least = min_tokens(unwrapped(classifier.model))
    padding = Padding.of(tokenizer, places_a_token=places_a_token, least=least)
    below_output = features_of(settings, classifier, accelerator, padding, store)
    boundary = boundary_of(settings, classifier, columns, below_output) if places_a_token > 1 else None
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
        below_output=below_output,
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


def _loaded(settings: Settings, corpus: Corpus, source: Source) -> tuple[Settings, Classifier]:
    """Return the classifier, and the settings with the head that it has, which they may leave open."""
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


def _what_learns(
    settings: Settings, corpus: Corpus, classifier: Classifier, train: Columns, accelerator: Accelerator
) -> tuple[Objective, list[Group]]:
    """Let the strategy change the model; return the objective, and what learns of both, nothing where none trains."""
    strategy: Strategy = settings.strategy
    set_seed(settings.seed)  # what a strategy draws must be the same on every rank
    strategy.apply(classifier)
    objective = Objective(settings.objective, corpus.task)
    if not strategy.trains:
        return objective, []
    check_shareable(accelerator, settings)
    own = objective.setup(
        classifier.model,
        seed=settings.seed,
        teacher_width=0 if train.teacher_features is None else train.teacher_features.shape[1],
        fresh=classifier.fresh,
        known=classifier.known,
    )
    return objective, strategy.groups(classifier) + own


def _make_cheap(model: nn.Module, settings: TrainingSettings) -> None:
    """Have a training take less memory and time, in ways that change none of its results."""
    if settings.gradient_checkpointing:
        checkpoint_activations(model)
    if not settings.compile:  # a compiler makes its own, and cannot look into this one
        make_dropout_cheap(model)
        if hasattr(model, "peft_config"):
            from nlp_transfer.encoder.lowrank import make_lora_cheap  # imports PEFT

            make_lora_cheap(model)
