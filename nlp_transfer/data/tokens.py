"""Tokenise texts into ragged arrays of ids: special tokens, pairs, truncation or windows.

Padding is added only when a batch is collated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from nlp_transfer.data.ragged import Tokens, starts
from nlp_transfer.data.truncation import PAIR_TRUNCATIONS, TRUNCATION_SIDES
from nlp_transfer.errors import UserError, at_least, one_of
from nlp_transfer.machine.disk import Scratch, scratch
from nlp_transfer.settings import TokenSettings

_MANY = 1 << 24  # tokens
_ROWS_PER_CALL = 4096  # bounds the tokenizer's own Python lists


@dataclass(frozen=True)
class TokenSpec:
    """Truncation settings, resolved for one encoder and one training split.

    Training rows are truncated to `max_length`. Other rows are truncated to `limit`, the encoder's maximum, because a
    model trained on short texts should still read a long one whole.
    """

    max_length: int
    limit: int
    truncation_side: str
    pair_truncation: str
    chunk: bool
    overlap: int
    max_windows: int | None

    def check(self) -> None:
        """Refuse values that `resolve_spec` never returns; a saved spec may have been edited.

        Raises:
            UserError: naming the value.
        """
        one_of(self.truncation_side, TRUNCATION_SIDES, "tokens.truncation_side")
        one_of(self.pair_truncation, PAIR_TRUNCATIONS, "tokens.pair_truncation")
        if not (0 < self.max_length <= self.limit and 0 <= self.overlap < self.max_length):
            raise UserError(f"tokens: no text can be cut to {self.max_length} of {self.limit}, {self.overlap} twice")
        at_least(self, "tokens.", 1, "max_windows")


def resolve_spec(settings: TokenSettings, lengths: np.ndarray, *, limit: int, pair: bool) -> TokenSpec:
    """Resolve the settings; ``max_length=auto`` is a percentile of the training rows' lengths.

    Args:
        settings: the `tokens` group, checked.
        lengths: untruncated lengths of the training rows in tokens, special tokens included.
        limit: the encoder's maximum input length.
        pair: whether rows are text pairs.

    Raises:
        UserError: for a length beyond the encoder's limit, and for windows over pairs without the text to split.
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
    """Return the untruncated length of every row in tokens, int64 (rows,)."""
    return encode_whole(tokenizer, texts, pairs).full


def encode(
    tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, spec: TokenSpec, *, max_length: int
) -> Tokens:
    """Encode rows and shorten those longer than `max_length` tokens: `encode_whole`, then `shorten`."""
    return shorten(encode_whole(tokenizer, texts, pairs), tokenizer, texts, pairs, spec, max_length=max_length)


def encode_whole(tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None) -> Tokens:
    """Encode rows without truncation.

    A special token written in a text ("[SEP]", "<s>") is encoded as plain text. Every row has at least one token, even
    an empty text with a tokenizer that adds no special tokens.
    """
    has_types = "token_type_ids" in tokenizer.model_input_names
    # Encoders reject rows without tokens; the end-of-text token carries no meaning.
    end = tokenizer.pad_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    tokenize = _tokenize_function(tokenizer, has_types)
    ids, types, lengths = Scratch(np.int32, many=_MANY), Scratch(np.int8, many=_MANY), [np.zeros(1, np.int64)]
    for start in range(0, len(texts), _ROWS_PER_CALL):
        part = slice(start, start + _ROWS_PER_CALL)
        rows, row_types = tokenize(list(texts[part]), None if pairs is None else list(pairs[part]))
        rows = [row or [end] for row in rows]
        lengths.append(np.fromiter(map(len, rows), np.int64, len(rows)))
        ids.append(_flat(rows, np.int32))
        types.append(_flat([row or [0] for row in row_types], np.int8))
    full = np.concatenate(lengths)[1:]
    return Tokens.whole(ids=ids.values, types=types.values if has_types else None, full=full)


def shorten(
    whole: Tokens,
    tokenizer: Any,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    spec: TokenSpec,
    *,
    max_length: int,
) -> Tokens:
    """Truncate rows longer than `max_length` tokens, or split them into windows; other rows do not change.

    Args:
        whole: the untruncated rows, from `encode_whole`.
        tokenizer: of the encoder.
        texts: of the same rows.
        pairs: the second texts, or None.
        spec: how rows are shortened.
        max_length: maximum length of a sequence.

    Raises:
        UserError: for windows without a fast tokenizer, and for a pair that cannot be shortened as the spec says.
    """
    if spec.chunk and not tokenizer.is_fast:
        raise UserError("tokens.long=chunk needs a fast tokenizer, which this encoder does not have; use truncate")
    # Tokens of every window but the first that are special or also in the window before it.
    repeated = spec.overlap + tokenizer.num_special_tokens_to_add(pairs is not None)
    tokenizer.truncation_side = spec.truncation_side
    windows, cut = np.ones_like(whole.full), np.zeros_like(whole.full)
    ids, types, lengths = [], [], []
    done = 0  # rows before this one have been copied
    for row in np.flatnonzero(whole.full > max_length).tolist():
        kept, kept_types = _shortened(
            tokenizer, texts[row], None if pairs is None else pairs[row], spec, max_length, whole.types is not None
        )
        window_lengths = np.array([len(window) for window in kept])
        is_complete = spec.chunk and (spec.max_windows is None or len(kept) < spec.max_windows)
        kept_tokens = whole.full[row] if is_complete else window_lengths.sum() - (len(kept) - 1) * repeated
        windows[row], cut[row] = len(kept), max(0, whole.full[row] - kept_tokens)
        between = slice(whole.offsets[done], whole.offsets[row])
        ids += [whole.ids[between], _flat(kept, np.int32)]
        lengths += [whole.full[done:row], window_lengths]
        if whole.types is not None:
            types += [whole.types[between], _flat(kept_types, np.int8)]
        done = row + 1
    if not done:
        return whole
    ids.append(whole.ids[whole.offsets[done] :])
    lengths.append(whole.full[done:])
    if whole.types is not None:
        types.append(whole.types[whole.offsets[done] :])
    return Tokens(
        ids=_joined(ids, np.int32),
        types=None if whole.types is None else _joined(types, np.int8),
        offsets=starts(np.concatenate(lengths)),
        first=starts(windows),
        full=whole.full,
        cut=cut,
    )


def backend_of(tokenizer: Any) -> Any:
    """Return the backend of a fast tokenizer, without truncation and padding; None if a subclass adds code of its own.

    Calling the backend directly then gives the same ids as calling the tokenizer.
    """
    from transformers import PreTrainedTokenizerFast

    methods = ("__call__", "_encode_plus")
    if not tokenizer.is_fast or any(
        getattr(type(tokenizer), name, tokenizer) is not getattr(PreTrainedTokenizerFast, name, None)
        for name in methods
    ):
        return None
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return backend


_Rows = list[list[int]]


def _tokenize_function(tokenizer: Any, has_types: bool) -> Callable[[list[str], list[str] | None], tuple[_Rows, _Rows]]:
    """Return a function from texts to the untruncated ids of every row, and their types or an empty list."""

    def call_tokenizer(texts: list[str], pairs: list[str] | None) -> tuple[_Rows, _Rows]:
        encoded = tokenizer(
            texts,
            pairs,
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=has_types,
            split_special_tokens=True,
            verbose=False,
        )
        return encoded["input_ids"], encoded["token_type_ids"] if has_types else []

    backend = backend_of(tokenizer)
    if backend is None:
        return call_tokenizer

    def call_backend(texts: list[str], pairs: list[str] | None) -> tuple[_Rows, _Rows]:
        """Return the same as `call_tokenizer`, without character offsets, which take a third of the time."""
        encoded = backend.encode_batch_fast(texts if pairs is None else list(zip(texts, pairs, strict=True)))
        return [row.ids for row in encoded], [row.type_ids for row in encoded] if has_types else []

    return call_backend


def _shortened(
    tokenizer: Any, text: str, pair: str | None, spec: TokenSpec, max_length: int, has_types: bool
) -> tuple[_Rows, _Rows]:
    """Encode one row that is too long: its head (or tail), or windows over it."""
    if spec.chunk and pair is not None:  # without this check the library would abort the process
        whole_text = pair if spec.pair_truncation == "only_first" else text
        encoding = tokenizer(whole_text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        room = max_length - len(encoding["input_ids"]) - tokenizer.num_special_tokens_to_add(True)
        if room <= spec.overlap:
            raise UserError(
                f"the pair that begins {text[:40]!r} cannot be cut into windows of {max_length} tokens: the text that "
                f"stays whole leaves {max(0, room)}, and {spec.overlap} of them are read twice; set a larger "
                "tokens.max_length, a smaller tokens.overlap, or cut the other text"
            )
    try:
        encoded = tokenizer(
            [text],
            [pair] if pair is not None else None,
            truncation=spec.pair_truncation if pair is not None else "only_first",
            max_length=max_length,
            stride=spec.overlap if spec.chunk else 0,
            return_overflowing_tokens=spec.chunk,
            return_attention_mask=False,
            return_token_type_ids=has_types,
            split_special_tokens=True,
            verbose=False,
        )
    except Exception as error:  # the tokenizers library raises nothing more specific
        raise UserError(
            f"the pair that begins {text[:40]!r} cannot be cut to {max_length} tokens ({error}); set "
            "tokens.pair_truncation=longest_first, or a larger tokens.max_length"
        ) from error
    kept = slice(0, spec.max_windows if spec.chunk else 1)
    return encoded["input_ids"][kept], encoded["token_type_ids"][kept] if has_types else []


def _flat(rows: _Rows, dtype: type[np.integer]) -> np.ndarray:
    return np.fromiter(chain.from_iterable(rows), dtype, sum(map(len, rows)))


def _joined(parts: list[np.ndarray], dtype: type[np.integer]) -> np.ndarray:
    """Concatenate arrays; a large result is backed by a file."""
    size = sum(map(len, parts))
    if size < _MANY:
        return np.concatenate([np.zeros(0, dtype), *parts])
    return np.concatenate(parts, out=scratch((size,), np.dtype(dtype)))
