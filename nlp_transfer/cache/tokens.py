"""Tokenise the texts of a corpus into columns, once each; token ids of large splits are cached for later runs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from typing import Any

import numpy as np
from accelerate import PartialState

from nlp_transfer.cache.store import Store
from nlp_transfer.data import tokens as token_ids
from nlp_transfer.data.batches import ColumnPool, Columns
from nlp_transfer.data.corpus import Corpus, Examples
from nlp_transfer.data.ragged import Tokens
from nlp_transfer.data.rows import Texts
from nlp_transfer.data.sequences import numbered
from nlp_transfer.data.tokens import TokenSpec
from nlp_transfer.data.unlabelled import NAME
from nlp_transfer.encoder.classifier import Classifier
from nlp_transfer.machine.launch import is_main
from nlp_transfer.machine.versions import digest_of_code, installed
from nlp_transfer.objectives.settings import terms_that
from nlp_transfer.settings import Settings

_WORTH_KEEPING = 1 << 18  # characters of a split; fewer take a fifth of a second


def encode_splits(
    settings: Settings, corpus: Corpus, classifier: Classifier, store: Store | None = None
) -> tuple[dict[str, Columns], TokenSpec]:
    """Return every split's columns and the resolved token settings.

    Training rows are truncated as the settings say, others at the encoder's limit. Unlabelled texts are a split of
    their own, truncated like training rows; their targets are zero.

    Args:
        settings: of the run.
        corpus: its data.
        classifier: has the tokenizer and the encoder's limit.
        store: for the ids of large splits, or None.

    Raises:
        UserError: for texts that cannot be truncated as the settings say.
    """
    tokenizer = classifier.tokenizer
    encoder = classifier.source.name
    pool = corpus.pool
    splits = corpus.splits if pool is None else corpus.splits | {"train": pool.examples}
    if corpus.unlabelled and terms_that("reads_unlabelled", settings.objective):
        splits = splits | {NAME: _without_labels(corpus.unlabelled, like=corpus.splits["train"])}
    whole = {split: _encode_whole(tokenizer, examples, store, encoder) for split, examples in splits.items()}

    def resolve(lengths: np.ndarray) -> TokenSpec:
        return token_ids.resolve_spec(settings.tokens, lengths, limit=classifier.max_tokens, pair=corpus.task.pair)

    def shortened(split: str, spec: TokenSpec) -> Columns:
        examples, max_length = splits[split], spec.max_length if split in ("train", NAME) else spec.limit
        tokens = token_ids.shorten(whole[split], tokenizer, examples.texts, examples.pairs, spec, max_length=max_length)
        return _columns(examples, tokens)

    lengths = whole["train"].full
    spec = resolve(lengths if pool is None else lengths[pool.chosen])
    columns = {split: shortened(split, spec) for split in splits}
    if pool is not None:
        whole_pool = shortened("train", resolve(lengths))
        columns["train"] = _drawn(whole_pool, columns["train"], corpus.splits["train"], pool.chosen)
    return columns, spec


def _without_labels(texts: Texts, *, like: Examples) -> Examples:
    count = len(texts.texts)
    targets = np.zeros((count, *like.targets.shape[1:]), like.targets.dtype)
    ids = numbered(f"{NAME}-", range(count))
    return Examples(texts.texts, texts.pairs, targets, np.ones(count, np.float32), ids, None)


def _drawn(pool: Columns, cut: Columns, examples: Examples, chosen: np.ndarray) -> Columns:
    """Return the rows drawn from a pool, with a reference to the pool if both truncations give them the same tokens.

    Args:
        pool: all rows of the pool, truncated to a length resolved from all of them.
        cut: all rows of the pool, truncated to a length resolved from the drawn rows.
        examples: the drawn rows.
        chosen: their indices in the pool.
    """
    rows = chosen.tolist()
    tokens, pool_tokens = cut.tokens.take(rows), pool.tokens.take(rows)
    are_equal = all(
        np.array_equal(getattr(tokens, name), getattr(pool_tokens, name)) for name in ("ids", "offsets", "first")
    )
    return dataclasses.replace(_columns(examples, tokens), pool=ColumnPool(pool, chosen) if are_equal else None)


def _columns(examples: Examples, tokens: Tokens) -> Columns:
    return Columns(tokens=tokens, targets=examples.targets, weights=examples.weights)


def _encode_whole(tokenizer: Any, examples: Examples, store: Store | None, encoder: str) -> Tokens:
    """Return the untruncated ids of a split, from the store if they are there."""
    texts, pairs = examples.texts, examples.pairs
    is_large = sum(map(len, texts)) + sum(map(len, pairs or ())) >= _WORTH_KEEPING
    key = _key(tokenizer, examples) if store is not None and is_large else None
    if store is None or key is None:
        return token_ids.encode_whole(tokenizer, texts, pairs)
    with PartialState().main_process_first():  # other ranks find what it stored, unless they have another disk
        values = store.find(key) if is_main() else store.peek(key)
        if values is None:
            started = time.monotonic()
            values = token_ids.encode_whole(tokenizer, texts, pairs).to_array()
            if is_main():
                about = {"what": "token ids", "encoder": encoder, "rows": len(texts)}
                values = store.keep(key, values, about | {"seconds": round(time.monotonic() - started, 3)})
    return Tokens.from_array(values)


def _key(tokenizer: Any, examples: Examples) -> str | None:
    """Return a digest of all that determines the untruncated ids of a split; None if custom code is involved."""
    backend = token_ids.backend_of(tokenizer)
    if backend is None:  # the tokenizer has code of its own
        return None
    try:
        serialised = backend.to_str()
    except Exception:  # the backend has code of its own; the tokenizers library raises nothing more specific
        return None
    parts = [
        "token ids",
        serialised,
        tokenizer.model_input_names,
        tokenizer.pad_token_id,
        tokenizer.eos_token_id,
        {"nlp_transfer": digest_of_code(), **installed(("transformers", "tokenizers"))},
    ]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for texts in (examples.texts, examples.pairs or ()):
        digest.update(len(texts).to_bytes(8, "little"))
        for text in texts:
            encoded = text.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()
