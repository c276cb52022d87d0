"""From the texts of a corpus to columns of token ids: each is tokenised once, and many are kept for later runs."""

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
from nlp_transfer.data.batches import Columns, Drawn
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
    """Return every split's columns; training rows are cut as the settings say, others where the encoder demands.

    Texts without labels are a split of their own and cut as training rows are; what stands for their targets is zero.

    Args:
        settings: of the run.
        corpus: its data.
        classifier: gives the tokenizer and the most it takes.
        store: where the ids of large splits are kept, or None.

    Raises:
        UserError: for texts that cannot be cut as the settings say.
    """
    tokenizer = classifier.tokenizer
    encoder = classifier.source.name
    pool = corpus.pool
    splits = corpus.splits if pool is None else corpus.splits | {"train": pool.examples}
    if corpus.unlabelled and terms_that("reads_unlabelled", settings.objective):
        splits = splits | {NAME: _without_labels(corpus.unlabelled, like=corpus.splits["train"])}
    whole = {split: _whole(tokenizer, examples, store, encoder) for split, examples in splits.items()}

    def resolved(lengths: np.ndarray) -> TokenSpec:
        return token_ids.resolve_spec(settings.tokens, lengths, limit=classifier.max_tokens, pair=corpus.task.pair)

    def cut(split: str, own: TokenSpec) -> Columns:
        most, examples = own.max_length if split in ("train", NAME) else own.limit, splits[split]
        tokens = token_ids.shorten(whole[split], tokenizer, examples.texts, examples.pairs, own, max_length=most)
        return _columns(examples, tokens)

    full = whole["train"].full
    spec = resolved(full if pool is None else full[pool.chosen])
    columns = {split: cut(split, spec) for split in splits}
    if pool is not None:
        columns["train"] = _drawn(cut("train", resolved(full)), columns["train"], corpus.splits["train"], pool.chosen)
    return columns, spec


def _without_labels(texts: Texts, *, like: Examples) -> Examples:
    count = len(texts.texts)
    targets = np.zeros((count, *like.targets.shape[1:]), like.targets.dtype)
    ids = numbered(f"{NAME}-", range(count))
    return Examples(texts.texts, texts.pairs, targets, np.ones(count, np.float32), ids, None)


def _drawn(pool: Columns, cut: Columns, examples: Examples, chosen: np.ndarray) -> Columns:
    """Return the rows that were drawn from a pool, with the pool if it was cut as they are.

    Args:
        pool: all of its rows, cut as suits all of them.
        cut: all of its rows, cut as suits those that were drawn.
        examples: the rows that were drawn.
        chosen: which of the pool they are.
    """
    rows = chosen.tolist()
    own, theirs = cut.tokens.take(rows), pool.tokens.take(rows)
    same = all(np.array_equal(getattr(own, of), getattr(theirs, of)) for of in ("ids", "offsets", "first"))
    return dataclasses.replace(_columns(examples, own), pool=Drawn(pool, chosen) if same else None)


def _columns(examples: Examples, tokens: Tokens) -> Columns:
    return Columns(tokens=tokens, targets=examples.targets, weights=examples.weights)


def _whole(tokenizer: Any, examples: Examples, store: Store | None, encoder: str) -> Tokens:
    """Return the ids of a split with nothing cut: those that were kept, or new ones."""
    texts, pairs = examples.texts, examples.pairs
    large = sum(map(len, texts)) + sum(map(len, pairs or ())) >= _WORTH_KEEPING
    key = _key(tokenizer, examples) if store is not None and large else None
    if store is None or key is None:
        return token_ids.encode_whole(tokenizer, texts, pairs)
    with PartialState().main_process_first():  # the others find what it has kept, unless they have another disk
        found = store.find(key) if is_main() else store.peek(key)
        if found is None:
            started = time.monotonic()
            found = token_ids.encode_whole(tokenizer, texts, pairs).folded()
            if is_main():
                about = {"what": "token ids", "encoder": encoder, "rows": len(texts)}
                found = store.keep(key, found, about | {"seconds": round(time.monotonic() - started, 3)})
    return Tokens.unfolded(found)


def _key(tokenizer: Any, examples: Examples) -> str | None:
    """Return what the ids of a split with nothing cut hang on, as 64 hex digits; None where not all of it shows."""
    backend = token_ids.backend_of(tokenizer)
    if backend is None:  # the tokenizer has code of its own
        return None
    try:
        described = backend.to_str()
    except Exception:  # and so has the backend; the tokenizers library raises nothing more precise
        return None
    parts = [
        "token ids",
        described,
        tokenizer.model_input_names,
        tokenizer.pad_token_id,
        tokenizer.eos_token_id,
        {"nlp_transfer": digest_of_code(), **installed(("transformers", "tokenizers"))},
    ]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for texts in (examples.texts, examples.pairs or ()):
        digest.update(len(texts).to_bytes(8, "little"))
        for text in texts:
            written = text.encode("utf-8", "surrogatepass")
            digest.update(len(written).to_bytes(8, "little") + written)
    return digest.hexdigest()
