"""Checks with an encoder and its tokenizer: paraphrases, truncated texts, unknown words."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator

import numpy as np

from nlp_transfer.data.checks import LEAKS, called
from nlp_transfer.data.corpus import Examples
from nlp_transfer.data.finding import Finding, Place
from nlp_transfer.data.ragged import Tokens
from nlp_transfer.running.prepared import Prepared

_PARAPHRASE = 0.95  # cosine
_COMPARED = 2000, 50_000  # most rows whose neighbours are searched, and most neighbours
_CUT = 0.01  # share of truncated texts
_UNKNOWN = 0.02  # share of texts with unknown characters
_LETTERS_PER_TOKEN = 1.8  # with fewer, the vocabulary does not know the alphabet
_MIN_LETTERS = 10  # of a text, to judge that
_SPELLED = 0.02  # share of such texts
_UNSPACED = re.compile("[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u9fff\uac00-\ud7af]")
_BLOCK = 256  # rows compared at once


def paraphrases(prepared: Prepared, same: Container[Place]) -> Iterator[Finding]:
    """Find rows that paraphrase a row of an earlier split, or an earlier row of their own split.

    Large splits are sampled, to bound the cost.

    Args:
        prepared: the parts of the run.
        same: rows that were already found to repeat others, exactly or nearly.
    """
    most_rows, most_neighbours = _COMPARED
    encoded = {split: _vectors(prepared, split) for split in prepared.corpus.splits}
    left = {split: [row for row in rows if (split, row) not in same] for split, (_, rows) in encoded.items()}
    for source, target in (*LEAKS, *((split, split) for split in encoded)):
        if source not in encoded or target not in encoded:
            continue
        neighbours, rows = _sample(left[source], most_neighbours), _sample(left[target], most_rows)
        within = source == target
        close = _closest(encoded[target][0], rows, encoded[source][0], neighbours, earlier=within)
        if close:
            yield Finding(
                "paraphrase",
                f"{len(close):,} of {len(rows):,} {called(target)} rows"
                f"{' of a sample' * (len(rows) < len(left[target]))} paraphrase "
                f"{'an earlier one' if within else f'a {called(source)} row'} "
                f"(cosine of {_PARAPHRASE} or more)",
                tuple((target, row) for row in close),
                tuple((source, row) for row in close.values()),
            )


def _sample(rows: list[int], most: int) -> list[int]:
    return rows[:: max(1, -(-len(rows) // most))]


def _closest(
    vectors: np.ndarray, rows: list[int], others: np.ndarray, neighbours: list[int], *, earlier: bool
) -> dict[int, int]:
    """Return the rows that paraphrase a neighbour, with that neighbour; if `earlier`, of a smaller index."""
    paraphrased: dict[int, int] = {}
    theirs, numbers = _unit_vectors(others[neighbours]), np.asarray(neighbours)
    for start in range(0, len(rows) if neighbours else 0, _BLOCK):
        block = np.asarray(rows[start : start + _BLOCK])
        cosines = _unit_vectors(vectors[block]) @ theirs.T
        if earlier:
            cosines[numbers >= block[:, None]] = -1
        best = cosines.argmax(1)
        for row, cosine, other in zip(block, cosines.max(1), numbers[best], strict=True):
            if cosine >= _PARAPHRASE:
                paraphrased[int(row)] = int(other)
    return paraphrased


def _vectors(prepared: Prepared, split: str) -> tuple[np.ndarray, list[int]]:
    """Return the last layer's sentence vectors of a split, and the rows whose vector is not zero."""
    layers = len(getattr(prepared.classifier.model.config, "layers", [0]))
    vectors = np.split(prepared.features(split), layers, axis=1)[-1]
    blocks = (vectors[start : start + _BLOCK] for start in range(0, len(vectors), _BLOCK))
    return vectors, np.flatnonzero(np.concatenate([np.linalg.norm(block, axis=1) for block in blocks])).tolist()


def _unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors to length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def tokens(prepared: Prepared) -> Iterator[Finding]:
    """Find truncated texts, and words that the vocabulary lacks or spells letter by letter."""
    unknown = prepared.classifier.tokenizer.unk_token_id
    for split, columns in prepared.columns.items():
        split_tokens, rows = columns.tokens, f"of {len(columns):,} {called(split)} texts"
        cut, most = np.flatnonzero(split_tokens.cut > 0), prepared.spec.limit
        if split == "train":
            most = prepared.spec.max_length
        if len(cut) > _CUT * len(columns):
            share = f"{split_tokens.cut.sum() / split_tokens.full.sum():.1%}"
            yield Finding(
                "truncated",
                f"{len(cut):,} {rows} are longer than {most:,} tokens, and {share} of all tokens are cut off",
                tuple((split, int(row)) for row in cut),
            )
        examples = prepared.corpus.splits[split]
        lacking = _with_unknown_words(examples, split_tokens, unknown)
        if len(lacking) > _UNKNOWN * len(columns):
            yield Finding(
                "unknown_words",
                f"{len(lacking):,} {rows} hold words in letters that the encoder does not know",
                tuple((split, int(row)) for row in lacking),
            )
        spelled = _spelled(examples, split_tokens)
        if len(spelled) > _SPELLED * len(columns):
            yield Finding(
                "unknown_words",
                f"{len(spelled):,} {rows} are spelled letter by letter: the encoder does not know their language",
                tuple((split, int(row)) for row in spelled),
            )


def _with_unknown_words(examples: Examples, split_tokens: Tokens, unknown: int) -> np.ndarray:
    """Return the rows with more unknown tokens than emoji and other symbols, of which each may be an unknown token."""
    places = np.flatnonzero(split_tokens.ids == unknown)
    rows, counts = np.unique(np.searchsorted(split_tokens.ends, places, side="right") - 1, return_counts=True)
    symbols = np.array([sum(map(_symbols, _texts(examples, int(row)))) for row in rows], np.int64)
    return rows[counts > symbols]


def _spelled(examples: Examples, split_tokens: Tokens) -> np.ndarray:
    """Return the rows with hardly more letters than tokens, except in scripts where a letter may be a word.

    Digits, punctuation and symbols may each be a token that spells nothing.
    """
    texts = [_texts(examples, row) for row in range(len(examples))]
    letters = np.array([sum(map(_letters, row)) for row in texts])
    others = np.array([sum(map(_neither_letters_nor_spaces, row)) for row in texts])
    return np.flatnonzero((letters >= _MIN_LETTERS) & (letters < _LETTERS_PER_TOKEN * (split_tokens.full - 2 - others)))


def _texts(examples: Examples, row: int) -> tuple[str, ...]:
    """Return the text of a row, or its two texts."""
    first = examples.texts[row]
    return (first,) if examples.pairs is None else (first, examples.pairs[row])


def _neither_letters_nor_spaces(text: str) -> int:
    """Return the number of digits, punctuation marks and symbols in a text."""
    return sum(not (character.isalpha() or character.isspace()) for character in text)


def _symbols(text: str) -> int:
    """Return the number of characters beyond ASCII in a text that are no letters or digits, such as emoji."""
    return sum(not (character.isascii() or character.isalnum() or character.isspace()) for character in text)


def _letters(text: str) -> int:
    """Return the number of letters in a text; 0 in scripts where a letter may be a word."""
    return 0 if _UNSPACED.search(text) else sum(map(str.isalpha, text))
