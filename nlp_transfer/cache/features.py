"""Features (inputs of the output layer) of every example of a split: computed on all ranks, or read from the store."""

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

from nlp_transfer.cache.shared import SharedMatrix, WriteFailed, is_true_on_all_ranks
from nlp_transfer.cache.store import Store
from nlp_transfer.data.batches import Columns, Padding
from nlp_transfer.encoder.classifier import Classifier
from nlp_transfer.encoder.fingerprint import key_of, model_digest, parameters_digest
from nlp_transfer.settings import Settings
from nlp_transfer.training import inference
from nlp_transfer.training.bfloat16 import computes_in_bfloat16

_MOST_BYTES = 2 << 30  # of hidden states, which are held in memory while they are computed


@dataclass
class Features:
    """Computes and caches the features of a classifier in its current state; every rank has an instance.

    Attributes:
        accelerator: has the device, the precision and the ranks.
        classifier: computes the features.
        padding: of the rows.
        most_tokens: maximum padded tokens of a forward pass.
        constant: whether nothing below the output layer ever changes; features of a split are then computed once.
        code: the revision of an encoder with remote code, else None.
        store: for the features, or None.
    """

    accelerator: Accelerator
    classifier: Classifier
    padding: Padding
    most_tokens: int
    constant: bool
    code: str | None = None
    store: Store | None = None
    _weights: str | None = field(default=None, init=False)
    _by_split: dict[str, np.ndarray] = field(default_factory=dict, init=False)  # if constant

    def of(self, split: str, columns: Columns) -> np.ndarray:
        """Return the features of a split, float32 (examples, width), read-only and the same on every rank.

        The bits do not depend on the store or its contents.
        """
        if split in self._by_split:
            return self._by_split[split]
        features = self.now(columns)
        if self.constant:
            self._by_split[split] = features
        return features

    def keep_layer(self, position: int, splits: dict[str, Columns]) -> None:
        """Keep only one of several concatenated layers of a constant encoder as the input of the output layer.

        The features of these splits are sliced, not computed again.
        """
        model: Any = self.classifier.model
        wide = self._by_split | {split: self.of(split, columns) for split, columns in splits.items()}
        count = len(model.config.layers)
        self._by_split = {split: np.split(features, count, axis=1)[position] for split, features in wide.items()}
        model.keep_layer(position)

    def known(self, classifier: Classifier, splits: dict[str, np.ndarray]) -> Features:
        """Return an instance for a classifier whose encoder no longer changes, given the features of these splits."""
        features = dataclasses.replace(self, classifier=classifier, constant=True)
        features._by_split = {split: _read_only(values) for split, values in splits.items()}
        return features

    def now(self, columns: Columns) -> np.ndarray:
        """Return the features of the current model; rows drawn from a pool are sliced from the pool's features."""
        if columns.pool is not None:
            return _read_only(self.now(columns.pool.columns)[columns.pool.chosen])
        return self._cached("features", columns, self._weights_below_output, partial(self._run, columns))

    def uncached(self, columns: Columns) -> np.ndarray:
        """Return the features of the current model without the store, for features that no later run needs."""
        return _read_only(self._run(columns))

    def states(self, columns: Columns, *, layer: str, depth: int) -> np.ndarray:
        """Return the hidden states that enter a layer for every token, see `inference.run_to`; single-process only.

        Args:
            columns: the split.
            layer: its qualified name.
            depth: number of layers below it, whose parameters are all unchanged.
        """
        anatomy = self.classifier.anatomy
        frozen = {name for name, parameter_depth in anatomy.depth.items() if parameter_depth <= depth}
        weights = partial(parameters_digest, self.classifier.model, frozen)
        return self._cached(f"states at {layer}", columns, weights, partial(self._run_to, columns, layer))

    def holds(self, numbers: int) -> bool:
        """Return whether this many values of hidden states fit into memory, whatever the store contains."""
        return numbers * (2 if computes_in_bfloat16(self.accelerator) else 4) <= _MOST_BYTES

    def _cached(
        self,
        what: str,
        columns: Columns,
        weights: Callable[[], str],
        compute: Callable[[inference.MakeMatrix | None], np.ndarray],
    ) -> np.ndarray:
        """Return the values from the store, or compute and store them."""
        if self.store is None:
            return _read_only(compute(None))
        is_main = self.accelerator.is_main_process  # only the main process writes to the store
        before = model_digest(self.classifier.model) if is_main else ""
        key = self._key(what, columns, before, weights()) if is_main else ""
        found = self._found_on_all_ranks(self.store, key, self.store.find(key) if is_main else None)
        if found is not None:
            return found
        started, shared = time.monotonic(), SharedMatrix(self.accelerator, self.store)
        try:
            try:
                values = compute(shared.allocate)
            except WriteFailed:
                values = compute(None)
            # If the forward pass changed the model, a cached result would skip that change.
            if is_main and model_digest(self.classifier.model) == before:
                about = {"what": what, "encoder": self.classifier.source.name, "rows": len(columns)}
                about |= {"seconds": round(time.monotonic() - started, 3)}
                if not shared.finish(key, about):
                    values = self.store.keep(key, values, about)
        finally:
            shared.discard()
        return _read_only(values)

    def _run(self, columns: Columns, make_matrix: inference.MakeMatrix | None = None) -> np.ndarray:
        return inference.run(
            self.accelerator,
            self.classifier.model,
            columns,
            padding=self.padding,
            most_tokens=self.most_tokens,
            want="features",
            make_matrix=make_matrix,
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

    def _weights_below_output(self) -> str:
        if self._weights is None or not self.constant:
            self._weights = parameters_digest(self.classifier.model)
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

    def _found_on_all_ranks(self, store: Store, key: str, found: np.ndarray | None) -> np.ndarray | None:
        """Return the array that the main process found if every rank can read it, else None on all ranks."""
        (found_key,) = broadcast_object_list([None if found is None else key])
        if found_key is None:
            return None
        if not self.accelerator.is_main_process:
            found = store.peek(found_key)
        return found if is_true_on_all_ranks(self.accelerator, found is not None) else None


def features_of(
    settings: Settings,
    classifier: Classifier,
    accelerator: Accelerator,
    padding: Padding,
    store: Store | None,
) -> Features:
    """Return the `Features` of a classifier to which a strategy was applied.

    Args:
        settings: of the run.
        classifier: computes the features.
        accelerator: has the device, the precision and the ranks.
        padding: of the rows.
        store: for the features, or None.
    """
    trusted, revision = settings.encoder.trust_remote_code, classifier.source.revision
    return Features(
        accelerator,
        classifier,
        padding,
        settings.evaluation.batch_tokens,
        constant=settings.strategy.frozen,
        code=revision if trusted else None,
        # Remote code without a pinned revision may change, so its results cannot be cached.
        store=None if trusted and revision is None else store,
    )


def with_features(columns: Columns, features: np.ndarray) -> Columns:
    """Return the columns with precomputed features of the frozen encoder."""
    return dataclasses.replace(columns, features=features)


def with_states(columns: Columns, states: np.ndarray) -> Columns:
    """Return the columns with precomputed hidden states of the frozen layers, and without a pool, which has none."""
    return dataclasses.replace(columns, states=states, pool=None)


def _read_only(values: np.ndarray) -> np.ndarray:
    values.flags.writeable = False
    return values
