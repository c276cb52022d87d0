"""What enters the output layer for every example of a split: computed on all ranks, or found where it was kept."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from nlp_transfer.cache.shared import Shared, Unwritten, everywhere
from nlp_transfer.cache.store import Store
from nlp_transfer.data.batches import Columns, Padding
from nlp_transfer.encoder.classifier import Classifier
from nlp_transfer.encoder.fingerprint import description, key_of, weights_digest
from nlp_transfer.settings import Settings
from nlp_transfer.training import inference
from nlp_transfer.training.bfloat16 import computes_in_bfloat16

_MOST_BYTES = 2 << 30  # of hidden states, which are in memory at once while they are computed


@dataclass
class Features:
    """The features of a classifier as it is when it is asked; every rank has one.

    Attributes:
        accelerator: gives the device, the precision and the ranks.
        classifier: asked for features.
        padding: how rows are made equal.
        most_tokens: padded tokens in one forward pass.
        constant: whether nothing below the output layer ever changes; a split is then asked about once.
        code: the revision of an encoder that runs code of its own; None: it does not.
        store: where features are kept, or None.
    """

    accelerator: Accelerator
    classifier: Classifier
    padding: Padding
    most_tokens: int
    constant: bool
    code: str | None = None
    store: Store | None = None
    _weights: str | None = field(default=None, init=False)
    _made: dict[str, np.ndarray] = field(default_factory=dict, init=False)  # by split

    def of(self, split: str, columns: Columns) -> np.ndarray:
        """Return the features of a split, float32 (examples, width), read-only and the same on every rank.

        The bits do not depend on whether there is a store or what is in it.
        """
        if split in self._made:
            return self._made[split]
        features = self.now(columns)
        if self.constant:
            self._made[split] = features
        return features

    def keep_layer(self, position: int, splits: dict[str, Columns]) -> None:
        """Let the output layer read one of several concatenated layers of a constant encoder from now on.

        What it reads of some splits is cut out of what it would have read: that is the same whichever layer is kept.
        """
        model: Any = self.classifier.model
        wide = self._made | {split: self.of(split, columns) for split, columns in splits.items()}
        count = len(model.config.layers)
        self._made = {split: np.split(features, count, axis=1)[position] for split, features in wide.items()}
        model.keep_layer(position)

    def known(self, classifier: Classifier, splits: dict[str, np.ndarray]) -> Features:
        """Return the features of a classifier whose encoder changes no more, those of these splits known already."""
        features = dataclasses.replace(self, classifier=classifier, constant=True)
        features._made = {split: _read_only(values) for split, values in splits.items()}
        return features

    def now(self, columns: Columns) -> np.ndarray:
        """Return the features of a split as the model is now; of rows that were drawn, those of their pool, cut out."""
        if columns.pool is not None:
            return _read_only(self.now(columns.pool.columns)[columns.pool.chosen])
        return self._kept("features", columns, self._below_output, partial(self._run, columns))

    def fresh(self, columns: Columns) -> np.ndarray:
        """Return the features of a split as the model is now, of which no later run will ask: they are not kept."""
        return _read_only(self._run(columns))

    def states(self, columns: Columns, *, layer: str, depth: int) -> np.ndarray:
        """Return what enters a layer for every token of a split, see `inference.run_to`; in one process alone.

        Args:
            columns: the split.
            layer: its qualified name.
            depth: of the layers below it, in which nothing has learned.
        """
        anatomy = self.classifier.anatomy
        frozen = {name for name, own in anatomy.depth.items() if own <= depth}
        weights = partial(weights_digest, self.classifier.model, frozen)
        return self._kept(f"states at {layer}", columns, weights, partial(self._run_to, columns, layer))

    def holds(self, numbers: int) -> bool:
        """Return whether so many of states may be held; what the disk keeps must not decide what is computed."""
        return numbers * (2 if computes_in_bfloat16(self.accelerator) else 4) <= _MOST_BYTES

    def _kept(
        self,
        what: str,
        columns: Columns,
        weights: Callable[[], str],
        compute: Callable[[inference.MakeMatrix | None], np.ndarray],
    ) -> np.ndarray:
        """Return what is kept under the key of a question, or compute and keep it."""
        if self.store is None:
            return _read_only(compute(None))
        first = self.accelerator.is_main_process  # it alone looks, decides and keeps
        before = description(self.classifier.model) if first else ""
        key = self._key(what, columns, before, weights()) if first else ""
        found = self._agreed(self.store, key, self.store.find(key) if first else None)
        if found is not None:
            return found
        started, shared = time.monotonic(), Shared(self.accelerator, self.store)
        try:
            try:
                values = compute(shared.room)
            except Unwritten:
                values = compute(None)
            # A pass that changes the model may not be left out the next time.
            if first and description(self.classifier.model) == before:
                about = {"what": what, "encoder": self.classifier.source.name, "rows": len(columns)}
                about |= {"seconds": round(time.monotonic() - started, 3)}
                if not shared.finish(key, about):
                    values = self.store.keep(key, values, about)
        finally:
            shared.discard()
        return _read_only(values)

    def _run(self, columns: Columns, room: inference.MakeMatrix | None = None) -> np.ndarray:
        return inference.run(
            self.accelerator,
            self.classifier.model,
            columns,
            padding=self.padding,
            most_tokens=self.most_tokens,
            want="features",
            make_matrix=room,
        )

    def _run_to(self, columns: Columns, layer: str, _: inference.MakeMatrix | None) -> np.ndarray:
        return inference.run_to(
            self.accelerator,
            self.classifier.model,
            columns,
            layer=layer,
            padding=self.padding,
            most_tokens=self.most_tokens,
        )

    def _below_output(self) -> str:
        if self._weights is None or not self.constant:
            self._weights = weights_digest(self.classifier.model)
        return self._weights

    def _key(self, what: str, columns: Columns, model: str, weights: str) -> str:
        return key_of(
            what,
            columns.tokens,
            model=model,
            weights=weights,
            code=self.code,
            padding=self.padding,
            batch_tokens=self.most_tokens,
            precision=self.accelerator.mixed_precision,
            device=self.accelerator.device,
        )

    def _agreed(self, store: Store, key: str, found: np.ndarray | None) -> np.ndarray | None:
        """Return what the first rank has found if every rank can read it, else None on all of them."""
        told = broadcast_object_list([None if found is None else key])
        if told[0] is None:
            return None
        if not self.accelerator.is_main_process:
            found = store.peek(told[0])
        return found if everywhere(self.accelerator, found is not None) else None


def features_of(
    settings: Settings,
    classifier: Classifier,
    accelerator: Accelerator,
    padding: Padding,
    store: Store | None,
) -> Features:
    """Return the features of a classifier that a strategy was applied to.

    Args:
        settings: of the run.
        classifier: asked for features.
        accelerator: gives the device, the precision and the ranks.
        padding: how rows are made equal.
        store: where features are kept, or None.
    """
    trusted, revision = settings.encoder.trust_remote_code, classifier.source.revision
    return Features(
        accelerator,
        classifier,
        padding,
        settings.evaluation.batch_tokens,
        constant=settings.strategy.frozen,
        code=revision if trusted else None,
        # Of code that no revision pins nothing says what it computes.
        store=None if trusted and revision is None else store,
    )


def with_features(columns: Columns, features: np.ndarray) -> Columns:
    """Return the columns with what the frozen encoder made of the texts, so that it need not run again."""
    return dataclasses.replace(columns, features=features)


def with_states(columns: Columns, states: np.ndarray) -> Columns:
    """Return the columns with what the frozen layers made of every token, without the pool, which has no states."""
    return dataclasses.replace(columns, states=states, pool=None)


def _read_only(values: np.ndarray) -> np.ndarray:
    values.flags.writeable = False
    return values
