"""From texts to token ids: special tokens, pairs, cutting or windows, and what that costs.

Ids are kept ragged in one flat array, so that nothing is padded before a batch is made. This file knows the tokenizer
of transformers by its call only; it knows no labels and no batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlp_transfer.errors import UserError, one_of
from nlp_transfer.settings import TokenSettings

TRUNCATION_SIDES = ("right", "left")
PAIR_TRUNCATIONS = ("longest_first", "only_first", "only_second")
_ROWS_PER_CALL = 4096  # bounds the tokenizer's own Python lists


@dataclass(frozen=True)
class TokenSpec:
    """How texts become ids, resolved for one encoder and one training split.

    `max_length` is what training rows are cut to; `limit` what the encoder can take. Rows that are evaluated or
    predicted are cut at `limit`: a model trained on short texts should still read a long one whole.
    """

    max_length: int
    limit: int
    truncation_side: str
    pair_truncation: str
    chunk: bool
    overlap: int
    max_windows: int | None

    def check(self) -> None:
        """Refuse values that `resolve_spec` does not return; a saved one may come from anywhere.

        Raises:
            UserError: naming the value.
        """
        one_of(self.truncation_side, TRUNCATION_SIDES, "tokens.truncation_side")
        one_of(self.pair_truncation, PAIR_TRUNCATIONS, "tokens.pair_truncation")
        if not (0 < self.max_length <= self.limit and 0 <= self.overlap < self.max_length):
            raise UserError(f"tokens: no text can be cut to {self.max_length} of {self.limit}, {self.overlap} twice")
        if self.max_windows is not None and self.max_windows < 1:
            raise UserError(f"tokens.max_windows={self.max_windows} must be at least 1")


@dataclass(frozen=True)
class Tokens:
    """Token ids of a list of examples, ragged.

    Sequence s is ``ids[offsets[s]:offsets[s + 1]]``; example e owns the sequences ``first[e]:first[e + 1]`` (one each,
    more where a long text was cut into windows).

    Attributes:
        ids: int32, (tokens,).
        types: int8 token type ids, (tokens,), or None where the encoder takes none.
        offsets: int64, (sequences + 1,).
        first: int64, (examples + 1,).
        full: int64, (examples,), tokens of the example with nothing cut.
        cut: int64, (examples,), tokens that did not fit and are not in `ids`.
    """

    ids: np.ndarray
    types: np.ndarray | None
    offsets: np.ndarray
    first: np.ndarray
    full: np.ndarray
    cut: np.ndarray

    def __len__(self) -> int:
        return len(self.first) - 1

    @property
    def sequence_lengths(self) -> np.ndarray:
        """Tokens of every sequence, int64 (sequences,)."""
        return np.diff(self.offsets)

    @property
    def windows(self) -> np.ndarray:
        """Sequences of every example, int64 (examples,)."""
        return np.diff(self.first)

    @property
    def sizes(self) -> np.ndarray:
        """Tokens of every example, int64 (examples,)."""
        return np.diff(self.offsets[self.first])

    @property
    def longest(self) -> np.ndarray:
        """Tokens of every example's longest sequence, int64 (examples,): what a padded row of it costs."""
        return np.maximum.reduceat(self.sequence_lengths, self.first[:-1]) if len(self) else np.zeros(0, np.int64)


def check_tokens(settings: TokenSettings) -> None:
    """Check the values that need neither texts nor an encoder.

    Raises:
        UserError: naming the key, its value and what it may be.
    """
    one_of(settings.truncation_side, TRUNCATION_SIDES, "tokens.truncation_side")
    one_of(settings.pair_truncation, PAIR_TRUNCATIONS, "tokens.pair_truncation")
    one_of(settings.long, ("truncate", "chunk"), "tokens.long")
    if not 0 < settings.percentile <= 100:
        raise UserError(f"tokens.percentile={settings.percentile} must lie in (0, 100]")
    if not 0 <= settings.overlap <= 0.5:
        raise UserError(f"tokens.overlap={settings.overlap} must lie in [0, 0.5]")
    if settings.max_windows is not None and settings.max_windows < 1:
        raise UserError(f"tokens.max_windows={settings.max_windows} must be at least 1, or null for no bound")
    if settings.max_length != "auto" and type(settings.max_length) is not int:
        raise UserError(f"tokens.max_length={settings.max_length!r} must be auto or a whole number")


def resolve_spec(settings: TokenSettings, lengths: np.ndarray, *, limit: int, pair: bool) -> TokenSpec:
    """Choose the length training rows are cut to from their own lengths.

    Args:
        settings: the `tokens` group, checked.
        lengths: full lengths of the training rows in tokens, special tokens included.
        limit: the longest input the encoder takes.
        pair: whether rows are sentence pairs.

    Raises:
        UserError: for a length the encoder cannot take, or windows over pairs without saying which text is cut.
    """
    chunk = settings.long == "chunk"
    if chunk and pair and settings.pair_truncation == "longest_first":
        raise UserError(
            "tokens.long=chunk over pairs needs to know which text is cut into windows: set "
            "tokens.pair_truncation=only_first or only_second"
        )
    if settings.max_length == "auto":
        wanted = int(np.ceil(np.percentile(lengths, settings.percentile, method="inverted_cdf")))
        max_length = min(limit, -(-wanted // 8) * 8)  # multiples of 8 keep matrix kernels aligned
    else:
        max_length = settings.max_length
        if not 8 <= max_length <= limit:
            raise UserError(
                f"tokens.max_length={max_length} must lie between 8 and {limit}, which is the most the encoder takes"
            )
    return TokenSpec(
        max_length=max_length,
        limit=max_length if chunk or settings.max_length != "auto" else limit,
        truncation_side=settings.truncation_side,
        pair_truncation=settings.pair_truncation,
        chunk=chunk,
        overlap=int(max_length * settings.overlap),
        max_windows=settings.max_windows,
    )


def full_lengths(tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None) -> np.ndarray:
    """Return every row's length in tokens with nothing cut, int64 (rows,)."""
    lengths = [len(ids) for ids, _ in _whole(tokenizer, texts, pairs)]
    return np.asarray(lengths, dtype=np.int64)


def encode(
    tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, spec: TokenSpec, *, max_length: int
) -> Tokens:
    """Encode rows, cutting or windowing only those longer than `max_length` tokens.

    A special token written in a text ("[SEP]", "<s>") is text, not a special token. Every row has a token, also an
    empty text under a tokenizer that adds none.
    """
    sequences: list[list[int]] = []
    types: list[list[int]] = []
    windows: list[int] = []
    full: list[int] = []
    cut: list[int] = []
    if spec.chunk and not tokenizer.is_fast:
        raise UserError("tokens.long=chunk needs a fast tokenizer, which this encoder does not have; use truncate")
    repeated = spec.overlap + tokenizer.num_special_tokens_to_add(pairs is not None)  # of every window but the first
    typed = "token_type_ids" in tokenizer.model_input_names
    tokenizer.truncation_side = spec.truncation_side
    for row, (ids, ids_types) in enumerate(_whole(tokenizer, texts, pairs)):
        if len(ids) <= max_length:
            kept, kept_types = [ids], [ids_types] if typed else []
        else:
            kept, kept_types = _shorten(
                tokenizer, texts[row], None if pairs is None else pairs[row], spec, max_length, typed
            )
        sequences += kept
        types += kept_types
        windows.append(len(kept))
        full.append(len(ids))
        whole = spec.chunk and (spec.max_windows is None or len(kept) < spec.max_windows)
        read = len(ids) if whole else sum(map(len, kept)) - (len(kept) - 1) * repeated
        cut.append(max(0, len(ids) - read))
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in sequences], dtype=np.int64)]).astype(np.int64)
    return Tokens(
        ids=np.fromiter((token for ids in sequences for token in ids), dtype=np.int32, count=int(offsets[-1])),
        types=np.fromiter((t for ids in types for t in ids), dtype=np.int8, count=int(offsets[-1])) if typed else None,
        offsets=offsets,
        first=np.concatenate([[0], np.cumsum(windows, dtype=np.int64)]).astype(np.int64),
        full=np.asarray(full, dtype=np.int64),
        cut=np.asarray(cut, dtype=np.int64),
    )


def _whole(tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the ids of every row, nothing cut, and their types, which are empty where the encoder takes none."""
    typed = "token_type_ids" in tokenizer.model_input_names
    # No encoder takes a row without a token; the end of a text is the one that says nothing.
    end = tokenizer.pad_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    for start in range(0, len(texts), _ROWS_PER_CALL):
        stop = start + _ROWS_PER_CALL
        call = tokenizer(
            list(texts[start:stop]),
            list(pairs[start:stop]) if pairs is not None else None,
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=typed,
            split_special_tokens=True,
            verbose=False,
        )
        for index, ids in enumerate(call["input_ids"]):
            types = call["token_type_ids"][index] if typed else []
            yield (ids, types) if ids else ([end], [0] if typed else [])


def _shorten(
    tokenizer: Any, text: str, pair: str | None, spec: TokenSpec, max_length: int, typed: bool
) -> tuple[list[list[int]], list[list[int]]]:
    """Encode one row that is too long: its head (or tail), or windows over it."""
    try:
        encoded = tokenizer(
            [text],
            [pair] if pair is not None else None,
            truncation=spec.pair_truncation if pair is not None else "only_first",
            max_length=max_length,
            stride=spec.overlap if spec.chunk else 0,
            return_overflowing_tokens=spec.chunk,
            return_attention_mask=False,
            return_token_type_ids=typed,
            split_special_tokens=True,
            verbose=False,
        )
    except Exception as error:  # the tokenizers library raises nothing more precise
        raise UserError(
            f"the pair that begins {text[:40]!r} cannot be cut to {max_length} tokens ({error}); set "
            "tokens.pair_truncation=longest_first, or a larger tokens.max_length"
        ) from error
    kept = slice(0, spec.max_windows if spec.chunk else 1)
    return encoded["input_ids"][kept], encoded["token_type_ids"][kept] if typed else []
