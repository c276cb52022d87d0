"""The parts of a run that is ready to be trained, and what its model computes for rows and texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from accelerate import Accelerator
from torch import nn

from nlp_transfer.cache.features import Features, with_features, with_states
from nlp_transfer.data.batches import Columns, Padding
from nlp_transfer.data.corpus import Corpus, Texts
from nlp_transfer.data.task import Task, likeliest
from nlp_transfer.data.tokens import TokenSpec, encode
from nlp_transfer.data.unlabelled import NAME
from nlp_transfer.encoder.boundary import layers_around, skip_layers
from nlp_transfer.encoder.classifier import Classifier
from nlp_transfer.objectives.objective import Objective
from nlp_transfer.running.auxiliary import AuxiliaryData
from nlp_transfer.running.frozen import TRAINING_SPLITS, frozen_modules
from nlp_transfer.settings import Settings
from nlp_transfer.strategies import Group, Strategy
from nlp_transfer.terminal.console import Screen
from nlp_transfer.terminal.progress import reading
from nlp_transfer.training import inference


@dataclass(frozen=True)
class Prepared:
    """The parts of a run, ready to be trained.

    Only the model changes, in place: it is trained, and a frozen encoder may be cut to one of several layers read.

    Attributes:
        settings: of the run, with the choice of the head resolved.
        corpus: its data.
        accelerator: device, precision and ranks.
        classifier: the model, after the strategy has changed it, and its tokenizer.
        objective: the loss.
        groups: the trainable parameters with their learning rates.
        spec: how texts are tokenised.
        columns: by split, the arrays that batches are made of.
        padding: how the rows of a batch are padded.
        padding_words: the same in words.
        feature_cache: computes and caches the features: what enters the output layer, for every row of a split.
        boundary: the number of frozen bottom layers whose states are computed once, and the qualified name of the layer
            above; None: there are none, or the model cannot start there.
        auxiliary: a teacher's outputs, and the digest of what else is learned from beside the rows.
        notes: sentences on data, encoder and device.
    """

    settings: Settings
    corpus: Corpus
    accelerator: Accelerator
    classifier: Classifier
    objective: Objective
    groups: list[Group]
    spec: TokenSpec
    columns: dict[str, Columns]
    padding: Padding
    padding_words: str
    feature_cache: Features
    boundary: tuple[int, str] | None
    auxiliary: AuxiliaryData
    notes: list[str]

    @property
    def strategy(self) -> Strategy:
        """Which parameters learn."""
        return self.settings.strategy

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

    def with_task(self, task: Task) -> Prepared:
        """Return the same parts for a task with other thresholds."""
        return dataclasses.replace(self, corpus=dataclasses.replace(self.corpus, task=task))

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
        if columns.features is not None:
            return columns.features[rows]
        if columns.pool is None:
            return self.feature_cache.now(columns.take(rows))
        return self.features(split)[rows]  # from those of the pool, which other runs need as well

    def current_features(self, split: str) -> np.ndarray:
        """Return the features of the encoder as it is now; those of a trained encoder are not cached."""
        return self.features(split) if self.feature_cache.constant else self.feature_cache.uncached(self.columns[split])

    def logits_and_features(self, texts: Texts) -> tuple[np.ndarray, np.ndarray]:
        """Return logits and features of texts that are in no split, tokenised like an evaluation split."""
        spec, tokenizer = self.spec, self.classifier.tokenizer
        tokens = encode(tokenizer, texts.texts, texts.pairs, spec, max_length=spec.limit)
        columns = Columns(tokens, np.zeros(len(texts.texts), np.float32), np.ones(len(texts.texts), np.float32))
        features = self.feature_cache.uncached(columns)
        return self.logits(with_features(columns, features)), features

    @contextmanager
    def skipping_frozen_layers(self, screen: Screen) -> Iterator[Prepared]:
        """Compute the states above the frozen bottom layers once, and start the model there within the block.

        Yields:
            The parts to be used in the block, whose columns have these states; without such layers, the same parts.
        """
        if not self.boundary:
            yield self
            return
        depth, name = self.boundary
        with reading(screen, "running the frozen layers once"):
            states = {
                split: with_states(part, self.feature_cache.states(part, layer=name, depth=depth))
                for split in TRAINING_SPLITS
                if (part := self.columns.get(split)) is not None
            }
        below, layer = layers_around(self.classifier.model, self.classifier.anatomy, depth)
        with skip_layers(below, layer):
            yield dataclasses.replace(self, columns=self.columns | states)

    def keep_layer(self, position: int) -> None:
        """From now on feed only one of several concatenated layers of a frozen encoder into the output layer."""
        read = {split: self.columns[split] for split in ("train", self.corpus.reported_split)}
        self.feature_cache.keep_layer(position, read)
